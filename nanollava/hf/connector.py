"""A connector in a directory of its own: weights, and a connector.json that says what they are.

W needs no such file: the names of its tensors tell "linear" from "mlp2x_gelu".
"""

from pathlib import Path

from torch import nn

from ..config import ConnectorConfig
from ..files import read_json, write_json
from .config import connector_json, parse_connector
from .files import CONNECTOR_FILE, projector_files, projector_kind, shapes
from .names import PROJECTOR_LAYOUT, WeightsError


def connector_of(source: str | Path) -> tuple[str, ConnectorConfig | None]:
    """What a directory or file holds: one of PROJECTORS or CONNECTORS, and the sizes of the latter.

    A file of a connector has its connector.json next to it.
    """
    source = Path(source)
    folder = source.parent if source.is_file() else source
    file = folder / CONNECTOR_FILE
    if file.is_file():
        return parse_connector(read_json(file), str(file))
    return projector_kind(projector_files(source)), None


def write_connector(folder: Path, projector: str, connector: ConnectorConfig) -> None:
    """Writes connector.json into a folder."""
    write_json(folder / CONNECTOR_FILE, connector_json(projector, connector))


def check_connector(files: list[Path], connector: nn.Module, projector: str) -> None:
    """A WeightsError if the files hold the weights of another connector, or of other sizes."""
    expected = {name: tuple(p.shape) for name, p in connector.named_parameters()}
    found = {}
    for name, shape in shapes(files).items():
        ours = PROJECTOR_LAYOUT.to_ours_in(files[0], name)
        if ours is not None:
            found[ours] = shape
    for name, shape in expected.items():
        if found.get(name) != shape:
            stored = found.get(name, "missing")
            raise WeightsError(
                f"{files[0]}: no {projector} of this tower, language model and {CONNECTOR_FILE}: "
                f"{name} is {stored}, expected {shape}"
            )
