import re
from pathlib import Path

from setuptools import setup

# The README links to other files of the repository, which a package index does not have:
# name them there instead, and leave out the picture.
readme = (Path(__file__).parent / "README.rst").read_text(encoding="utf-8")
readme = re.sub(r"`([^`<]+?)\s+<([\w./-]+\.rst|LICENSE)>`_", r"\1 (``\2``)", readme)
readme = re.sub(r" live:\n\n\.\. image:: .*\n(?:   .*\n)+", " live.\n", readme)

setup(long_description=readme, long_description_content_type="text/x-rst")
