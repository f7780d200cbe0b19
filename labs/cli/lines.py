"""What `labs run` shows: a line a run, as the official tester prints, and how far it has come."""

from typing import Final, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labs.cli.session import Ran

HEAD: Final = (
    f"{'':6} {'ed.':4} {'part':4} {'test':44} {'sim s':>8} {'real s':>7} {'peers':>5} "
    f"{'RPCs':>7} {'bytes':>10} {'ops':>6}"
)


def line(ran: Ran) -> str:
    """Verdict, edition, part, test; seconds simulated and real, peers, RPCs, bytes, operations."""
    test, figures = ran.test, ran.figures
    verdict = "FAILED" if not ran.passed else "skip" if ran.skipped else "ok"
    name = test.official.name
    if figures is None:
        numbers = f"{'-':>8} {ran.seconds:7.1f} {'-':>5} {'-':>7} {'-':>10} {'-':>6}"
    else:
        numbers = (
            f"{figures.seconds:8.1f} {ran.seconds:7.1f} {figures.peers:5} {figures.rpcs:7} "
            f"{figures.bytes:10} {figures.operations:6}"
        )
    return f"{verdict:6} {test.edition:4} {test.part:4} {name:44} {numbers}"


class Lines:
    """Writes a line when a run ends; on a terminal a bar below says how far it has come.

    Args:
        tracebacks: Whether a failure is shown whole.
    """

    def __init__(self, out: TextIO, *, tracebacks: bool = False) -> None:
        self.runs: list[Ran] = []
        self._tracebacks = tracebacks
        self._console = Console(file=out, highlight=False, markup=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._count = 0
        if out.isatty():
            self._progress = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[failed]} failed"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._bar = self._progress.add_task("runs", total=None, failed=0)

    def __enter__(self) -> "Lines":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    @property
    def failed(self) -> list[Ran]:
        return [ran for ran in self.runs if not ran.passed]

    def expect(self, count: int) -> None:
        if self._count == 0:
            self._write(HEAD)
        self._count = count
        if self._progress is not None:
            self._progress.update(self._bar, total=count)

    def ran(self, ran: Ran) -> None:
        self.runs.append(ran)
        self._write(line(ran))
        if not ran.passed:
            shown = ran.traceback if self._tracebacks else ran.message
            for text in shown.splitlines():
                self._write(f"       {text}")
            if ran.figures is not None:
                self._write(f"       seed: {ran.figures.seed}")
            self._write(f"       replay: {ran.replay}")
        if self._progress is not None:
            self._progress.update(self._bar, advance=1, failed=len(self.failed))

    def _write(self, text: str) -> None:
        self._console.print(text, end="\n")
