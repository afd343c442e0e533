"""A hook of MkDocs: shows files of the repository as pages of the site, so that others can link to them."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

# They lie below repository/ on the site, as they lie in the repository: links between them hold.
SHOWN = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/results/cpu.png",
    "benchmarks/results/pareto.png",
    "benchmarks/results/photographs/pareto.png",
    "clipfast/models/bundled/drawn/MODEL_CARD.md",
    "clipfast/models/bundled/photographs/MODEL_CARD.md",
    "export/cpp/README.md",
    "export/edge/README.md",
    "export/ray/README.md",
    "export/triton_server/README.md",
    "export/web/README.md",
    "export/web/screenshot.png",
    "tools/PROTOCOL.md",
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the files that are shown.

    Args:
        files: Those of docs/.
        config: The site's settings.

    Returns:
        All files of the site.
    """
    for place in SHOWN:
        files.append(File.generated(config, f"repository/{place}", abs_src_path=str(ROOT / place)))
    return files
