"""Renew the picture of the method in README.md: Mermaid text, made from config.yaml and FLARE23's numbers of cases.

python scripts/readme_picture.py
"""

import re
from pathlib import Path

from flare23_lib.config import Config
from flare23_lib.dataset import flare23
from flare23_lib.report.method import mermaid, method_graph

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    graph = method_graph(Config.load([ROOT / "config.yaml"]).method_settings(), flare23.CASES)
    readme = ROOT / "README.md"
    text, count = re.subn(r"(?s)(?<=```mermaid\n).*?(?=```)", mermaid(graph), readme.read_text(encoding="utf-8"))
    assert count == 1, "README.md holds no Mermaid block, or several"
    readme.write_text(text, encoding="utf-8")
