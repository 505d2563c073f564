"""How many digits of a result are right: errors in units in the last place, and their summary."""

from .summary import ErrorSummary as ErrorSummary
from .summary import summarize as summarize
from .ulp import flushed as flushed
from .ulp import relative_error as relative_error
from .ulp import spacing as spacing
from .ulp import ulp_error as ulp_error
