import re

from assistant.parts.catalog import PARTS


def test_every_part_is_pinned():
    assert set(PARTS) == {"smollm2-135m-instruct", "efficientnet-lite2"}
    for name, part in PARTS.items():
        assert part.name == name
        assert re.fullmatch(r"[0-9a-f]{64}", part.sha256)
        assert part.wheel.startswith(f"{part.package.replace('-', '_')}-{part.version}-py")
        assert part.disk > 2 * part.size
        assert part.licence == "Apache-2.0"
