"""A stand-in for the Hugging Face Hub on loopback: repositories in memory, by the part of its HTTP interface that
publishing and loading a model use."""
from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Hub(BaseHTTPRequestHandler):
    """Answers for `server.repos`, name -> {file: bytes}; what was asked is in `server.asked`,
    and whether a repository is private in `server.private`."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        """Nothing."""

    def _answer(self, found, status=200, **headers):
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(name.replace('_', '-'), value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)

    def _asked(self):
        path = self.path.partition('?')[0]
        self.server.asked.append((self.command, path, self.headers.get('Authorization')))
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        return path, body

    def do_POST(self):
        path, body = self._asked()
        repos, base = self.server.repos, f'http://{self.headers["Host"]}'
        if path == '/api/repos/create':
            told = json.loads(body)
            name = '/'.join(part for part in (told.get('organization') or 'me', told['name']) if part)
            repos.setdefault(name, {})
            self.server.private.setdefault(name, told.get('visibility') == 'private')
            return self._answer({'url': f'{base}/{name}', 'name': name})
        if path == '/api/validate-yaml':  # of the card's header
            return self._answer({'errors': [], 'warnings': []})
        name, what = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/.*', path).groups()
        if what == 'preupload':
            files = json.loads(body)['files']
            return self._answer({'files': [{'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False}
                                           for f in files]})
        for line in body.decode().splitlines():
            told = json.loads(line)
            if told['key'] == 'file':
                repos[name][told['value']['path']] = base64.b64decode(told['value']['content'])
        return self._answer({'commitUrl': f'{base}/{name}/commit/{_sha(repos[name])}', 'commitOid': _sha(repos[name])})

    def do_GET(self):
        path, _ = self._asked()
        repos = self.server.repos
        info = re.fullmatch(r'/api/models/([^/]+/[^/]+)(/revision/[^/]+)?', path)
        tree = re.fullmatch(r'/api/models/([^/]+/[^/]+)/tree/[^/]+', path)
        file = re.fullmatch(r'/([^/]+/[^/]+)/resolve/[^/]+/(.+)', path)
        name = next((match[1] for match in (info, tree, file) if match), None)
        if name not in repos:
            return self._answer({'error': 'Repository not found'}, 404, X_Error_Code='RepoNotFound')
        files = repos[name]
        if info:
            return self._answer({'id': name, 'modelId': name, 'sha': _sha(files), 'private': False, 'tags': [],
                                 'siblings': [{'rfilename': f} for f in files]})
        if tree:
            return self._answer([{'type': 'file', 'path': f, 'size': len(b), 'oid': hashlib.sha1(b).hexdigest()}
                                 for f, b in files.items()])
        if file[2] not in files:
            return self._answer({'error': 'Entry not found'}, 404, X_Error_Code='EntryNotFound')
        data = files[file[2]]
        return self._answer(data, X_Repo_Commit=_sha(files), ETag=f'"{hashlib.sha1(data).hexdigest()}"')

    do_HEAD = do_GET


def _sha(files):
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def hub():
    """The server, with `url`, `repos` and `asked`."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), _Hub)
    server.repos, server.asked, server.private = {}, [], {}
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
