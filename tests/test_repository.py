"""What stands beside the code: the paper's citations, links between files, one version everywhere."""

from __future__ import annotations

import re
import tomllib


def test_the_paper_cites_what_its_bibliography_has(repository):
    cited = set(re.findall(r"@([a-z]+\d{4}[a-z0-9]*)", (repository / "paper.md").read_text()))
    entries = re.findall(r"^@\w+\{(\w+),", (repository / "paper.bib").read_text(), re.M)
    assert cited and len(entries) == len(set(entries)) and cited == set(entries)


def test_links_between_files_lead_somewhere(repository):
    for name in ("README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "launch/README.md"):
        text = (repository / name).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or ((repository / name).parent / target).exists(), target
    for name in ("bug.yml", "question.yml"):
        assert (repository / ".github" / "ISSUE_TEMPLATE" / name).is_file()


def test_one_version_and_urls_for_the_package(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert f"\nversion: {project['version']}\n" in (repository / "CITATION.cff").read_text()
    assert project["urls"] and "Operating System :: POSIX :: Linux" in project["classifiers"]
