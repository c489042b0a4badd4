"""What the README shows is what the repository holds."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_shows_the_gloo_example_as_it_is() -> None:
    example = (ROOT / "docs/examples/demo_gloo.py").read_text()
    assert f"```python\n{example}```" in (ROOT / "README.md").read_text()


def test_every_file_of_the_readme_tree_exists() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[
        text.index("protocol/demo_protocol/ ") : text.index("Dataflow is the reading order")
    ]
    folder = ROOT
    missing = []
    for line in tree.splitlines():
        words = line.replace("├──", " ").replace("└──", " ").split()
        if not words or words[0] == "```":
            continue
        if not line.startswith(("├", "└")):
            folder = ROOT / words[0]
            missing += [] if folder.exists() else [words[0]]
            continue
        names = [w for w in words if w.endswith((".py", "/"))]
        missing += [name for name in names if not (folder / name).exists()]
    assert missing == []
