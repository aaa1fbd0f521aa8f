"""A JupyterLab of its own, on a free port of this machine, for tests and screenshots."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

TINY = """
from tests.conftest import tiny_model
from tests.outputs import on_tiny
import pathlib, tempfile, tl_modules as tlm
c = on_tiny(pathlib.Path(tempfile.mkdtemp()))
explorer = tlm.explore(c.model, c.modules, c.effects, prompt="the cat sat on the mat")
explorer
"""
"""A cell that explores modules of a tiny random model."""


@contextmanager
def jupyterlab(folder, *cells):
    """Serve a notebook of these cells; yield its address."""
    import nbformat

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    )
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "explore.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # JupyterLab would ask whether it may fetch news.
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    words = ["lab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    words += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--notebook-dir={folder}"]
    words += [f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    places = {f"JUPYTER_{name}_DIR": folder / name.lower() for name in ("CONFIG", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": folder / "settings", "IPYTHONDIR": folder / "ipython"}
    places |= {"JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces", "PYTHONPATH": ROOT}
    environment = os.environ | {name: str(value) for name, value in places.items()}
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", *words], env=environment, stdout=log, stderr=log
        )
    try:
        _wait_until_served(server, port, token, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:  # its kernel is slow to end on a busy machine
            server.kill()
            server.wait()


def _wait_until_served(server, port, token, log):
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def opened(page, address):
    """Open the notebook, and wait until its kernel answers: what runs before would be lost."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .cm-content", timeout=120_000)
    page.evaluate(
        """async () => {
          const { context } = jupyterapp.shell.currentWidget;
          await Promise.all([context.ready, context.sessionContext.ready]);
          await context.sessionContext.session.kernel.info;
        }"""
    )


def run_cell(page, number=0):
    """Run a cell, by its own key."""
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(number).click()
    page.keyboard.press("Shift+Enter")


def set_theme(page, theme):
    """``"Light"`` or ``"Dark"``."""
    page.evaluate(
        "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})",
        f"JupyterLab {theme}",
    )
    page.wait_for_selector(f"body[data-jp-theme-name='JupyterLab {theme}']", state="attached")
