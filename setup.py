"Packaging: everything is declared in settings.ini; phase notebooks and manifests ride inside the wheel."

import configparser
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
config = configparser.ConfigParser(delimiters=["="])
config.read(HERE / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

needs = {name: cfg[f"{name}_requirements"].split() for name in ("search", "learn", "cloud", "notebook", "spark")}
extras = {name: needs["search"] + (own if name != "search" else []) for name, own in needs.items()}  # each is whole by itself
extras["all"] = list(dict.fromkeys(word for words in extras.values() for word in words))
extras["dev"] = extras["all"] + cfg["dev_requirements"].split()


class BuildWithResources(build_py):
    "Copies the phase notebooks and data_manifests/ into the built package, where `base.resources` looks for them"

    def run(self) -> None:
        super().run()
        target = Path(self.build_lib) / cfg["lib_name"] / "_resources"
        for source, pattern in ((HERE / "nbs" / "phases", "*.ipynb"), (HERE / "data_manifests", "**/*")):
            for file in sorted(source.glob(pattern)):
                if file.is_file():
                    copy = target / source.name / file.relative_to(source)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    url=cfg["git_url"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
    ],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[cfg["lib_name"], cfg["lib_name"] + ".*"]),
    package_data={"": ["py.typed", "*.html", "*.css", "*.js"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split("\n"), "nbdev": [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    cmdclass={"build_py": BuildWithResources},
    zip_safe=False,
)
