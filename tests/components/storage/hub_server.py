"""A small Hugging Face Hub over HTTP: one repository of each name, its files, listings and ranges.

It answers as the real one does to what `huggingface_hub` asks; `cuts` are how many of the next
answers with a file's content break off in the middle.
"""

import hashlib
import re
import urllib.parse

from tests.http_server import LocalServer, body, head, send

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = r"([\w.-]+/[\w.-]+)"
API = re.compile(rf"/api/(models|datasets)/{NAME}(?:/(revision|tree|paths-info)/([^/]+)(.*))?")
FILE = re.compile(rf"/(?:datasets/)?{NAME}/resolve/([^/]+)/(.+)")


class Hub(LocalServer):
    """Holds `repositories`, name -> file -> bytes; `asked` are the paths of all requests.

    A name without an owner has `owner`.
    """

    def __init__(self, **repositories):
        super().__init__()
        self.repositories = {
            name if "/" in name else f"owner/{name}": files for name, files in repositories.items()
        }
        self.cuts, self.asked, self.tokens = 0, [], set()
        self.revisions = {None, "main", COMMIT}
        self.gated = set()  # names of repositories whose files a token without terms cannot read
        self.limits, self.seconds = 0, 1  # how many of the next answers say to wait so long
        self.flips = 0  # how many of the next answers with weights have a bit flipped

    def answer(self, handler):
        path, sent = urllib.parse.unquote(handler.path.partition("?")[0]), body(handler)
        self.asked.append(path)
        self.tokens.add(handler.headers.get("authorization"))
        if self.limits and "/owner/" in path:
            self.limits -= 1
            return send(handler, 429, {"error": "Too Many Requests"}, Retry_After=str(self.seconds))
        if (found := FILE.fullmatch(path)) and found[1] in self.gated:
            refuse(handler, "GatedRepo", "Access to this resource is restricted", status=401)
        elif (found := FILE.fullmatch(path)) and self.known(*found.group(1, 2)):
            self.send_file(handler, *found.group(1, 3))
        elif (found := API.fullmatch(path)) and self.known(found[2], found[4]):
            wanted = urllib.parse.parse_qs(sent.decode()).get("paths", [])
            reply = self.describe(found[2], found[3], found[5], wanted)
            if reply or found[3] != "tree":
                send(handler, 200, reply)
            else:
                refuse(handler, "EntryNotFound", "Entry not found")
        else:
            refuse(handler, "RepoNotFound", "Repository Not Found")
        return None

    def known(self, name, revision):
        return name in self.repositories and revision in self.revisions

    def describe(self, name, what, below, wanted):
        """The repository, its files and folders below a folder, or those of the paths."""
        files = self.repositories[name]
        if what in (None, "revision"):
            siblings = [{"rfilename": file} for file in files]
            return {"id": name, "sha": COMMIT, "private": False, "siblings": siblings}
        entries = [entry(file, content) for file, content in files.items()]
        folders = {file.rpartition("/")[0] for file in files if "/" in file}
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        if what == "paths-info":
            return [item for item in entries if item["path"] in wanted]
        inside = below.strip("/")
        return [item for item in entries if item["path"].startswith(f"{inside}/" if inside else "")]

    def send_file(self, handler, name, file):
        content = self.repositories[name].get(file)
        if content is None:
            return refuse(handler, "EntryNotFound", "Entry not found")
        facts = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
        part = content[int(asked[1]) : int(asked[2] or len(content)) + 1] if asked else content
        if self.flips and handler.command == "GET" and file.endswith(".safetensors"):
            self.flips -= 1
            part = part[:-1] + bytes([part[-1] ^ 1])
        if self.cuts and handler.command == "GET":
            self.cuts -= 1
            head(handler, 206 if asked else 200, len(part), **facts)
            handler.wfile.write(part[: len(part) // 2])
            handler.wfile.flush()
            handler.connection.close()
        else:
            send(handler, 206 if asked else 200, part, **facts)
        return None


def entry(file, content):
    """A file in a listing."""
    return {"type": "file", "oid": "0" * 40, "size": len(content), "path": file}


def refuse(handler, code, message, status=404):
    send(handler, status, {"error": message}, X_Error_Code=code, X_Error_Message=message)
