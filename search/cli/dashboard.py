"""`hwnas dashboard`"""

from __future__ import annotations

from pathlib import Path

import click

from ...spaces.errors import DeviceError, UsageError
from .common import say


@click.command("dashboard")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
def command(run: Path, host: str, port: int) -> None:
    """Serve optuna-dashboard on RUN/study.db until Ctrl-C; prints the address."""
    import importlib.util
    import threading
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    database = run / "study.db"
    if not database.is_file():
        raise UsageError(f"'{run}' is not a run folder: it has no study.db")
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise DeviceError("optuna-dashboard is missing: pip install 'hwnas[dashboard]'")

    class Silent(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Requests are not logged."""

    from optuna_dashboard import wsgi

    from .. import interrupts
    from ..storage import open_readable

    app = wsgi(open_readable(database))
    with make_server(host, port, app, handler_class=Silent) as server:
        click.echo(f"http://{host}:{server.server_port}/")
        say("stop with Ctrl-C")
        # Not in this thread: wsgiref swallows a Ctrl-C that arrives while it answers.
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(1.0)
                interrupts.check()
        finally:
            server.shutdown()
