// A stand-in for NVIDIA's driver library on a machine without a GPU: contexts, and recordings, strict about both.
//
// It is no test of the driver. What it can show is that our calls have the right arguments, that what is pushed is
// popped, and that nothing is asked of it outside a context. Declared as CUDA's documentation of its driver API has it.

#include <cstdio>
#include <cstring>
#include <set>
#include <vector>

namespace {

constexpr int kInvalidValue = 1, kNotInitialized = 3, kInvalidContext = 201, kInvalidHandle = 400;
char primary, other, foreign_memory[64];
bool initialized = false;
int retained = 0;
thread_local std::vector<void*> contexts;
std::set<void*> capturing, graphs, executables;

bool current() { return !contexts.empty() && contexts.back() == &primary; }

}  // namespace

extern "C" {

int cuInit(unsigned flags) {
    initialized = flags == 0;
    return initialized ? 0 : kInvalidValue;
}
int cuDeviceGetCount(int* count) {
    *count = 1;
    return initialized ? 0 : kNotInitialized;
}
int cuDeviceGet(int* device, int ordinal) {
    *device = 7;  // a device is not its number
    return ordinal == 0 ? 0 : kInvalidValue;
}
int cuDeviceGetName(char* name, int size, int device) {
    std::snprintf(name, size, "Host memory");
    return device == 7 ? 0 : kInvalidValue;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return device == 7 ? 0 : kInvalidValue;
}
int cuGetErrorString(int code, const char** text) {
    *text = code == kInvalidContext ? "invalid device context" : nullptr;
    return *text == nullptr ? kInvalidValue : 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (device != 7) return kInvalidValue;
    *context = &primary;
    ++retained;
    return 0;
}
int cuCtxPushCurrent_v2(void* context) {
    if (retained == 0 || context == nullptr) return kInvalidContext;
    contexts.push_back(context);
    return 0;
}
int cuCtxPopCurrent_v2(void** context) {
    if (contexts.empty()) return kInvalidContext;
    *context = contexts.back();
    contexts.pop_back();
    return 0;
}
int cuPointerGetAttribute(void* data, int attribute, unsigned long long address) {
    if (attribute != 1) return kInvalidValue;
    if (address == 4096) return kInvalidValue;  // of no allocation that it knows
    const bool foreign = address == reinterpret_cast<unsigned long long>(foreign_memory);
    *static_cast<void**>(data) = address == 8192 ? nullptr : foreign ? &other : &primary;
    return 0;
}
int cuStreamSynchronize(void*) { return current() ? 0 : kInvalidContext; }
int cuStreamBeginCapture_v2(void* stream, int mode) {
    if (!current()) return kInvalidContext;
    if (mode != 1) return kInvalidValue;
    return capturing.insert(stream).second ? 0 : kInvalidValue;
}
int cuStreamEndCapture(void* stream, void** graph) {
    if (!current()) return kInvalidContext;
    if (capturing.erase(stream) == 0) return kInvalidValue;
    *graph = new char;
    graphs.insert(*graph);
    return 0;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    if (!current()) return kInvalidContext;
    if (graphs.count(graph) == 0 || flags != 0) return kInvalidValue;
    *executable = new char;
    executables.insert(*executable);
    return 0;
}
int cuGraphDestroy(void* graph) { return graphs.erase(graph) == 1 ? 0 : kInvalidHandle; }
int cuGraphLaunch(void* executable, void*) {
    if (!current()) return kInvalidContext;
    return executables.count(executable) == 1 ? 0 : kInvalidHandle;
}
int cuGraphExecDestroy(void* executable) { return executables.erase(executable) == 1 ? 0 : kInvalidHandle; }

// For the tests.
void* host_driver_other() { return &other; }
unsigned long long host_driver_foreign() { return reinterpret_cast<unsigned long long>(foreign_memory); }
int host_driver_depth() { return static_cast<int>(contexts.size()); }
int host_driver_graphs() { return static_cast<int>(graphs.size() + executables.size()); }
}
