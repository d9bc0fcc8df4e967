"""`normcheck --audit`: from the options to the audit of one layer's tests, its text and its file. Judges nothing itself."""

import argparse
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from reference.command.parser import names_of
from reference.reporting.files import stream_of
from reference.reporting.foreign import printable_lines
from reference.subjects.loading import ALL, Unusable, parts_of
from reference.subjects.reading import Refused


def run(
    options: argparse.Namespace, console: Console, errors: Console, progress: Callable[[int, int], None] | None
) -> int:
    """Audit the tests of one layer; the exit code: 0 if they notice all, 1 if not, 2 if there is nothing to audit.

    Raises:
        Unusable: an argument is not what it should be, or the file cannot be written.
    """
    from reference.auditing.audit import audit
    from reference.reporting.json_report import write_json

    if len(options.subjects) != 1 or parts_of(options.subjects[0])[1] == ALL:
        raise Unusable(f"Expected one SUBJECT for --audit but got {' '.join(options.subjects) or 'none'}")
    if not options.mutants:
        raise Unusable("Expected --mutants to be at least 1 but got 0")
    try:
        found = audit(
            options.subjects[0],
            options.audit,
            like=options.like,
            mutants=options.mutants,
            seed=options.seed,
            accept=[id for item in options.accept for id in item.split(",") if id],
            names=names_of(options.names),
            dtypes=options.dtypes,
            channels_last=options.channels_last,
            ndims=options.ndims,
            timeout=options.timeout or 60.0,
            progress=progress,
        )
    except (Refused, ValueError, TypeError) as error:
        errors.print(f"normcheck: {escape(printable_lines(str(error), errors.encoding))}", soft_wrap=True)
        return 2
    if options.json is not None and stream_of(options.json) == 1:
        console = errors
    console.print(printable_lines(found.text(options.verbose), console.encoding), markup=False, soft_wrap=True)
    if options.json is not None:
        try:
            write_json(options.json, found.to_dict())
        except OSError as error:
            raise Unusable(f"{options.json} cannot be written: {error.strerror}") from error
    return 0 if found.passed else 1
