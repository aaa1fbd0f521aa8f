"""The part of the Hugging Face hub's HTTP API that sharing uses, on this machine."""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

WRITER, READER = "hf_writer", "hf_reader"


@dataclass
class Repository:
    private: bool
    branches: dict = field(default_factory=lambda: {"main": {}})
    summaries: list = field(default_factory=list)


@dataclass
class FakeHub:
    """What the server holds, and how it is to fail."""

    repositories: dict = field(default_factory=dict)
    blobs: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    endpoint: str = ""
    status: int | None = None
    """Answer everything with this."""
    served: float = 1.0
    """Hang up after so much of a file."""

    @property
    def sent(self):
        """Every byte that a client sent."""
        return b"".join(body for _, _, body in self.requests)

    def files(self, name, branch="main"):
        return self.repositories[name].branches[branch]


@contextmanager
def serving():
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *values):
        pass

    def _any(self):
        self.body = self._read()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, self.path, self.body))
        if self.hub.status:
            return self._answer(self.hub.status, {"error": "as told"})
        path = self.path.split("?")[0]
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                if self.command == "POST" and token != WRITER:
                    return self._answer(401 if token is None else 403, {"error": "not you"})
                return answer(self, token, *found.groups())
        return self._answer(404, {"error": f"the fake hub has no {self.command} {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, content, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = status != 200 or not isinstance(content, bytes) or self.hub.served == 1
        self.wfile.write(data if whole else data[: int(self.hub.served * len(data))])
        self.close_connection = not whole

    def _create(self, token):
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'user'}/{asked['name']}"
        known = name in self.hub.repositories
        if not known:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.repositories[name] = Repository(private)
        self._answer(409 if known else 200, {"url": f"{self.hub.endpoint}/{name}"})

    def _validate(self, token):
        known = "license: none-such" not in json.loads(self.body)["content"]
        errors = [] if known else [{"message": '"license" must be one of [mit, ...]'}]
        self._answer(200 if known else 400, {"errors": errors, "warnings": []})

    def _info(self, token, name):
        if self._may_read(token, name):
            private = self.hub.repositories[name].private
            self._answer(200, {"id": name, "private": private, "sha": "0" * 40, "siblings": []})

    def _branch(self, token, name, branch):
        branches = self.hub.repositories[name].branches
        known = branch in branches
        branches.setdefault(branch, dict(branches["main"]))
        self._answer(409 if known else 200, {})

    def _preupload(self, token, name, branch):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, token, name):
        objects = json.loads(self.body)["objects"]
        for blob in objects:
            href = f"{self.hub.endpoint}/lfs/{blob['oid']}"
            blob["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _blob(self, token, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        self._answer(200, {})

    def _verify(self, token, oid):
        size = json.loads(self.body)["size"]
        self._answer(200 if len(self.hub.blobs[oid]) == size else 422, {})

    def _commit(self, token, name, branch):
        repository = self.hub.repositories[name]
        proposed = "create_pr=1" in self.path
        files = repository.branches[branch]
        if proposed:
            files = repository.branches["refs/pr/1"] = dict(files)
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository.summaries.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                assert entry["key"] == "deletedFile"
                del files[value["path"]]
        address = f"{self.hub.endpoint}/{name}"
        answer = {"commitUrl": f"{address}/commit/{'1' * 40}", "commitOid": "1" * 40}
        self._answer(200, answer | {"pullRequestUrl": f"{address}/discussions/1"})

    def _resolve(self, token, name, branch, path):
        if not self._may_read(token, name):
            return
        branches = self.hub.repositories[name].branches
        branch = branch.replace("%2F", "/")
        if branch not in branches:
            self._answer(404, {}, X_Error_Code="RevisionNotFound")
        elif path not in branches[branch]:
            self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit="2" * 40)
        else:
            data = branches[branch][path]
            etag = hashlib.sha256(data).hexdigest()
            self._answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=etag[:40])

    def _may_read(self, token, name):
        repository = self.hub.repositories.get(name)
        if repository and (token in (WRITER, READER) or not repository.private):
            return True
        # As the real one: it does not say which names are taken.
        headers = {"X_Error_Code": "RepoNotFound"} if token else {}
        self._answer(404 if token else 401, {"error": "Repository not found"}, **headers)
        return False


_NAME, _PART = r"([\w.-]+/[\w.-]+)", "([^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("GET", f"/api/models/{_NAME}", _Handler._info),
    ("POST", f"/api/models/{_NAME}/branch/{_PART}", _Handler._branch),
    ("POST", f"/api/models/{_NAME}/preupload/{_PART}", _Handler._preupload),
    ("POST", f"/api/models/{_NAME}/commit/{_PART}", _Handler._commit),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", f"/lfs/{_PART}", _Handler._blob),
    ("POST", f"/lfs/{_PART}/verify", _Handler._verify),
    ("GET HEAD", f"/{_NAME}/resolve/{_PART}/{_PART}", _Handler._resolve),
]
