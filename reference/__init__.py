"""What a layer is held against, and the verdict: `check` and the doors to it.

    from reference import check
    report = check(MyGroupNorm)      # a class or factory with torch's keywords
    print(report)                    # what is wrong, by name; the smallest failing case

This package never imports the layers it judges.
"""

from reference.checks import check
from reference.coverage import Refused
from reference.result import Report
from reference.testing import assert_matches, from_functions, parametrize_with_checks

__all__ = ["Refused", "Report", "assert_matches", "check", "from_functions", "parametrize_with_checks"]
