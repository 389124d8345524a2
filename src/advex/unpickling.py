"""Tensors out of a file that `torch.save` wrote, which is a pickle: for `advex convert` alone.

Opening a pickle may run code. torch's loader for tensors alone is the first wall; as it has been climbed before, it
works in a process of its own, of bounded memory and output, and what comes back is a safetensors file.

    python -m advex.unpickling FILE OUT
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from advex.errors import ArtifactError, SpecError, quoted
from advex.progress import QUIET, Terminal

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
LARGEST = 8 * 2**30  # bytes of a file
_PATIENCE = 600  # seconds
_ROOM = 2**30  # bytes of memory and output beyond what the tensors take, as read, as copied and as written
# Where checkpoints keep their weights, among optimisers and numbers of epochs.
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_REFUSED = 3


def weights_of(path: Path, say: Terminal = QUIET) -> dict[str, Tensor]:
    """The tensors of a file of weights by name, of torch.save or safetensors, as its name ends.

    Raises SpecError for another ending, and what `unpickled` raises.
    """
    if path.suffix == ".safetensors":
        from advex.networks import weight_names  # not in the process that opens pickles

        return weight_names.read(path, str(path))
    if path.suffix not in PICKLES:
        raise SpecError(
            f"{path} does not have the extension of a weights file: {', '.join(('.safetensors', *PICKLES))}."
        )
    if path.is_file():
        say.note(f"{path} is a pickle: it is opened in a separate process that loads only tensors.")
    return unpickled(path)


def unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .bin file by name: a state_dict, or one inside a checkpoint.

    Raises ArtifactError for a file that is too large, is none of torch's or holds more than tensors and plain values.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder: give the weights file in it.", absent=True)
    if not path.is_file():
        raise ArtifactError(f"There is no file {path}.", absent=True)
    if not path.stat().st_size:
        raise ArtifactError(f"{path} is empty: was it downloaded or copied completely?")
    with path.open("rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80")):  # a ZIP archive; a pickle
            raise ArtifactError(f"{path} cannot be converted: it was not written by torch.save.")
    if (size := path.stat().st_size) > LARGEST:
        raise ArtifactError(f"{path} has {size:,} bytes; the limit for weights files is {LARGEST:,}.")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tensors"
        command = [sys.executable, "-m", "advex.unpickling", str(path.resolve()), str(out)]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            raise ArtifactError(f"{path} was not read within {_PATIENCE} seconds.") from None
        if ended.returncode == 0:
            return load_file(out)
        lines = ended.stderr.strip().splitlines() or [f"the process that read it ended with {ended.returncode}"]
        reason = lines[-1] if ended.returncode == _REFUSED else quoted(lines[-1], 200)
    raise ArtifactError(f"{path} cannot be converted: {reason}")


def _main(source: Path, out: Path) -> None:
    _bound_memory(4 * source.stat().st_size + _ROOM)
    try:
        whole = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        _refuse("it needs more memory than a file of its size should.")
    except Exception as error:
        if "weights_only" in str(error):
            _refuse(
                "it contains more than tensors and plain values, which only code could rebuild. Where it was "
                "made, torch.save(model.state_dict(), FILE) saves just the tensors."
            )
        _refuse("it is not a weights file written by torch.save, or is truncated: download or copy it again.")
    save_file(_tensors(whole), out)


def _tensors(whole: Any) -> dict[str, Tensor]:
    while isinstance(whole, Mapping) and not all(isinstance(value, Tensor) for value in whole.values()):
        inner = next((whole[name] for name in _HOLDERS if isinstance(whole.get(name), Mapping)), None)
        if inner is None:
            names = ", ".join(quoted(str(name)) for name in list(whole)[:5])
            _refuse(f"it contains {names}; weights are expected under {', '.join(_HOLDERS)}.")
        whole = inner
    if not isinstance(whole, Mapping) or not whole or not all(isinstance(name, str) for name in whole):
        _refuse(f"it contains {type(whole).__name__}, not named tensors.")
    if other := [name for name, value in whole.items() if value.layout != torch.strided or value.is_quantized]:
        _refuse(f"{quoted(other[0])} is sparse or quantised; only dense weights can be converted.")
    return {name: value.detach().clone().contiguous() for name, value in whole.items()}  # some share memory


def _bound_memory(more: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # systems that know no such limit
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (more, more))


def _refuse(reason: str) -> Any:
    print(reason, file=sys.stderr)
    sys.exit(_REFUSED)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
