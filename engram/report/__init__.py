"""Reports: trained agents on one page of HTML, with the library that draws it inside, and as films.

`eval_rl.py --report` and `engram.supervised.inspection` gather what a page shows; `write_page` knows the form of its
parts, not where they come from.
"""

from engram.report.curves import learning_curves
from engram.report.film import write_film
from engram.report.page import write_page

__all__ = ["learning_curves", "write_film", "write_page"]
