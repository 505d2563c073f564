"""How many digits of a result are right: errors in units in the last place, and their summary."""

from jaxbp.accuracy.summary import ErrorSummary as ErrorSummary
from jaxbp.accuracy.summary import summarize as summarize
from jaxbp.accuracy.ulp import flushed as flushed
from jaxbp.accuracy.ulp import relative_error as relative_error
from jaxbp.accuracy.ulp import spacing as spacing
from jaxbp.accuracy.ulp import ulp_error as ulp_error
