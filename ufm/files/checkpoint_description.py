"""What a folder of torch.distributed.checkpoint says of its tensors, unpickled by the classes that describe tensors alone."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ufm.files.archive import reason_of

METADATA = ".metadata"
NAMES_SHOWN = 8  # of the tensors of a folder, which may be those of a model
DESCRIBING_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
        "StorageMeta",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
}


class DescriptionReader(FileSystemReader):
    """torch's reader of a folder, which takes no class but those of `DESCRIBING_CLASSES` from its description."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """What the folder says of its tensors. Raises ValueError for anything else that is pickled there."""
        del args, kwargs
        path = Path(self.path) / METADATA
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}")
        if not path.is_file():
            raise ValueError(
                f"{path.parent} is no checkpoint: it has no {METADATA}, which is written last; shards are named by a pattern, "
                f"'{path.parent}/*.npz'"
            )
        try:
            metadata = _Unpickler(io.BytesIO(path.read_bytes())).load()
            if not isinstance(metadata, Metadata):
                raise ValueError(f"it holds {type(metadata).__name__}")
            _check_complete(metadata)
        except Exception as error:  # what is damaged raises anything
            raise ValueError(f"cannot read {path}: {reason_of(error)}") from error
        return metadata


def _check_complete(metadata: Metadata) -> None:
    """Raise ValueError unless every piece is told to lie in a file of the folder itself."""
    if not isinstance(metadata.state_dict_metadata, dict) or not isinstance(metadata.storage_data, dict):
        raise ValueError("it does not say where its tensors lie")
    for stored in metadata.storage_data.values():
        if Path(stored.relative_path).name != stored.relative_path:
            raise ValueError(f"it asks for {stored.relative_path}, outside its folder")


def whole_rows(metadata: Metadata, name: str, path: Path) -> tuple[TensorStorageMetadata, list[tuple[int, int]]]:
    """A tensor of a checkpoint, and its pieces in order: the first row of each and how many they are.

    Raises ValueError where there is none, and where pieces do not follow one another or do not have whole rows.
    """
    tensor = metadata.state_dict_metadata.get(name)
    if not isinstance(tensor, TensorStorageMetadata):
        stored_names = sorted(map(str, metadata.state_dict_metadata))
        names = ", ".join(stored_names[:NAMES_SHOWN]) + ", ..." * (len(stored_names) > NAMES_SHOWN) or "none"
        raise ValueError(f"{path} needs the tensors 'features' (n, P) and 'labels' (n,); it has: {names}")
    pieces, row = sorted((piece.offsets[0], piece.sizes[0]) for piece in tensor.chunks if piece.sizes and piece.sizes[0]), 0
    if any(piece.sizes[1:] != tensor.size[1:] for piece in tensor.chunks):
        raise ValueError(f"{path}: its {name} are sharded along their columns; shard them over examples, Shard(0)")
    for first, count in pieces:
        if first != row:
            raise ValueError(f"{path}: rows {min(first, row)} to {max(first, row)} of its {name} are missing or there twice")
        row += count
    if tensor.size[:1] != (row,):
        raise ValueError(f"{path}: {row} rows of its {name} are there, of {tuple(tensor.size)}")
    return tensor, pieces


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """A class of `DESCRIBING_CLASSES`, torch.Size, or a dtype of torch."""
        if name in DESCRIBING_CLASSES.get(module, ()):
            return super().find_class(module, name)
        asked = getattr(torch, name, None) if module == "torch" else None
        if asked is torch.Size or isinstance(asked, torch.dtype):
            return asked
        raise ValueError(f"it asks for {module}.{name}, which describes no tensor")
