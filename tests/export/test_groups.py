"""Groups of classes: from the configuration of the networks into the bundle's manifest."""

from __future__ import annotations

import dataclasses
import json

from conftest import ROOT
from oslic.export.export_bundle import manifest
from oslic.export.sources import Source, from_checkpoint
from oslic.networks.config import EVERYDAY_CLASSES, groups_of
from oslic.runtime.bundle.manifest import ClassInfo, Manifest

EVERYDAY = {
    "person": ("skin_hair", "clothes"),
    "foreground": ("skin_hair", "clothes", "animal", "vehicle", "food", "sign_screen_text", "object"),
    "text": ("sign_screen_text",),
}


def test_the_everyday_classes_have_all_groups():
    assert groups_of(EVERYDAY_CLASSES) == EVERYDAY
    without = [entry for entry in EVERYDAY_CLASSES if entry.name != "clothes"]
    assert groups_of(without) == {"text": ("sign_screen_text",)}
    assert groups_of([ClassInfo("Sky", (0, 0, 0))]) == {}


def test_the_page_lists_the_groups_that_there_are():
    page = (ROOT / "docs" / "guides" / "labels.md").read_text(encoding="utf-8")
    for group, members in EVERYDAY.items():
        assert f"| `{group}` | {', '.join(f'`{name}`' for name in members)} |" in page


def test_export_writes_the_groups_and_the_runtime_reads_them():
    source = Source("x", {}, EVERYDAY_CLASSES, 16, 4, 0.5, 32, fingerprint="ab" * 32, groups=EVERYDAY)
    made = manifest(source, {})
    assert made.groups == EVERYDAY
    plain = from_checkpoint(ROOT / "checkpoints" / "lite")
    assert plain.groups == groups_of(plain.classes)
    shipped = Manifest.from_json((ROOT / "runtime/bundles/lite/manifest.json").read_bytes())
    read = Manifest.from_json(
        dataclasses.replace(shipped, classes=EVERYDAY_CLASSES, groups=made.groups).to_json()
    )
    assert read.groups == EVERYDAY
    assert json.loads(read.to_json())["groups"] == {group: list(names) for group, names in EVERYDAY.items()}
