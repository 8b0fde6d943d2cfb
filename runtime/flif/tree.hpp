// MANIAC trees: decision trees over the properties of a pixel, whose leaves hold the coding contexts.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "integer_coder.hpp"
#include "ranges.hpp"

namespace oslic::flif {

inline constexpr int kMaxTreeCount = 512;
// Enough for RGBA plane 1 in the interlaced scan, which has the most.
inline constexpr int kMaxProperties = 11;

using PropertyIntervals = std::vector<Interval>;

struct TreeNode {
    int32_t property = -1;  // -1: leaf
    int32_t split = 0;      // property > split: first child, else second
    int32_t count = 0;      // pixels that this node serves before it splits; -1 once it has split
    uint32_t child = 0;     // the first child; the second one follows it
    uint32_t context = 0;   // where it is a leaf, or has not split yet
};

class Tree {
   public:
    // One leaf.
    Tree() : nodes_(1), contexts_(1) {}

    explicit Tree(std::vector<TreeNode> nodes) : nodes_(std::move(nodes)), contexts_(1) {
        for (const TreeNode& node : nodes_) properties_ = std::max(properties_, node.property + 1);
    }

    static Tree read(RangeDecoder& bits, PropertyIntervals intervals, uint64_t pixels) {
        IntegerReader reader(bits);
        Context node_kind, node_count, node_split;
        Tree tree;
        auto& nodes = tree.nodes_;
        const uint64_t most_nodes = max_tree_nodes(pixels);
        const int properties = static_cast<int>(intervals.size());

        // An explicit stack: a hostile tree may be a chain of hundreds of thousands of nodes. A frame is a node
        // whose interval of its property was narrowed for one child, with what to restore behind that child.
        struct Frame {
            uint32_t node;
            Interval whole;
            bool first_done;
        };
        std::vector<Frame> stack;
        uint32_t current = 0;
        size_t deepest = 0;
        for (;;) {
            const int property = reader.shifted(node_kind, 0, properties) - 1;
            if (property >= 0) {
                const Interval whole = intervals[static_cast<size_t>(property)];
                if (whole.min >= whole.max) fail("corrupt: a tree splits an interval of one value");
                if (nodes.size() + 2 > most_nodes) {
                    throw LimitExceeded("a tree has more than " + std::to_string(most_nodes) + " nodes");
                }
                TreeNode& node = nodes[current];
                node.property = property;
                tree.properties_ = std::max(tree.properties_, property + 1);
                node.count = reader.shifted(node_count, 1, kMaxTreeCount);
                node.split = reader.shifted(node_split, whole.min, whole.max - 1);
                node.child = static_cast<uint32_t>(nodes.size());
                intervals[static_cast<size_t>(property)].min = node.split + 1;
                stack.push_back({current, whole, false});
                deepest = std::max(deepest, stack.size());
                current = node.child;
                nodes.resize(nodes.size() + 2);
                continue;
            }
            while (!stack.empty() && stack.back().first_done) {
                const Frame& frame = stack.back();
                intervals[static_cast<size_t>(nodes[frame.node].property)] = frame.whole;
                stack.pop_back();
            }
            if (stack.empty()) break;
            Frame& frame = stack.back();
            const TreeNode& node = nodes[frame.node];
            intervals[static_cast<size_t>(node.property)] = {frame.whole.min, node.split};
            frame.first_done = true;
            current = node.child + 1;
        }
        if (deepest > kPlainTreeDepth) tree.steps_left_ = max_tree_steps(pixels);
        return tree;
    }

    void write(RangeEncoder& bits, PropertyIntervals intervals) const {
        IntegerWriter writer(bits);
        Context node_kind, node_count, node_split;
        write_node(writer, node_kind, node_count, node_split, intervals, 0);
    }

    // The context for a pixel with these properties; counts and splits on the way (section 9.3 of the format). The walk
    // begins at `start`: the root, or a node known to lie on the way.
    Context& find(const int32_t* properties, uint32_t start = 0) {
        // Within areas of one color pixels have the properties of the pixel before.
        if (same_as_last(properties)) return contexts_[last_context_];
        uint32_t n = start;
        if (steps_left_ == kUnlimited) {
            while (nodes_[n].count < 0) n = child(n, properties);
        } else {
            for (; nodes_[n].count < 0; n = child(n, properties)) {
                if (--steps_left_ == 0) throw LimitExceeded("a tree is so deep that decoding would take too long");
            }
        }
        if (nodes_[n].property < 0) {
            std::copy_n(properties, properties_, last_.begin());
            last_context_ = nodes_[n].context;
            return context(n);
        }
        if (spend(n)) return context(n);
        split(n);
        return context(child(n, properties));
    }

    // The steps of a walk, for those who know where it leads.

    // Takes one from an inner node's count; false if nothing is left, so that the node has to split.
    bool spend(uint32_t n) {
        TreeNode& node = nodes_[n];
        if (node.count == 0) return false;
        --node.count;
        return true;
    }

    void split(uint32_t n) {
        TreeNode& node = nodes_[n];
        node.count = -1;
        nodes_[node.child].context = node.context;
        nodes_[node.child + 1].context = static_cast<uint32_t>(contexts_.size());
        contexts_.push_back(Context(context(n)));
    }

    // Of a leaf, or of a node that has not split yet.
    Context& context(uint32_t n) { return contexts_[nodes_[n].context]; }

    const std::vector<TreeNode>& nodes() const { return nodes_; }

   private:
    static constexpr uint64_t kUnlimited = ~uint64_t{0};

    static std::array<int32_t, kMaxProperties> no_properties() {
        std::array<int32_t, kMaxProperties> none;
        none.fill(INT32_MIN);
        return none;
    }

    uint32_t child(uint32_t n, const int32_t* properties) const {
        const TreeNode& node = nodes_[n];
        return node.child + (properties[node.property] > node.split ? 0 : 1);
    }

    bool same_as_last(const int32_t* properties) const {
        for (int k = 0; k < properties_; ++k) {
            if (properties[k] != last_[static_cast<size_t>(k)]) return false;
        }
        return true;
    }

    // Trees of our own making are shallow enough for recursion.
    void write_node(IntegerWriter& writer, Context& node_kind, Context& node_count, Context& node_split,
                    PropertyIntervals& intervals, uint32_t n) const {
        const TreeNode& node = nodes_[n];
        writer.shifted(node_kind, node.property + 1, 0, static_cast<int32_t>(intervals.size()));
        if (node.property < 0) return;
        const Interval whole = intervals[static_cast<size_t>(node.property)];
        writer.shifted(node_count, node.count, 1, kMaxTreeCount);
        writer.shifted(node_split, node.split, whole.min, whole.max - 1);
        Interval& narrowed = intervals[static_cast<size_t>(node.property)];
        narrowed.min = node.split + 1;
        write_node(writer, node_kind, node_count, node_split, intervals, node.child);
        narrowed = {whole.min, node.split};
        write_node(writer, node_kind, node_count, node_split, intervals, node.child + 1);
        narrowed = whole;
    }

    std::vector<TreeNode> nodes_;
    std::vector<Context> contexts_;
    // The properties that led to a leaf last, and its context: nothing on the way there counts any more. Before the
    // first such pixel they are values that no property has.
    int properties_ = 0;  // how many the tree looks at
    std::array<int32_t, kMaxProperties> last_ = no_properties();
    uint32_t last_context_ = 0;
    uint64_t steps_left_ = kUnlimited;
};

}  // namespace oslic::flif
