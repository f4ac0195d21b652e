"""A small ftp server on the loopback: one file, passive mode, REST."""

import contextlib
import socket
import socketserver
import threading


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        with contextlib.ExitStack() as self.sockets, contextlib.suppress(ConnectionError):  # a client that hangs up
            self.converse()

    def converse(self):
        server, start, passive = self.server, 0, None
        self.answer("220 ready")
        while line := self.rfile.readline().decode().strip():
            server.commands.append(line)
            command, _, argument = line.partition(" ")
            if command in server.without:
                self.answer("502 unknown")
            elif command == "SIZE" and argument != server.path:
                self.answer("550 no such file")
            elif command == "SIZE":
                self.answer(f"213 {len(server.content)}")
            elif command == "PASV":
                passive = self.sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
                port = passive.getsockname()[1]
                self.answer(f"227 passive (127,0,0,1,{port >> 8},{port & 255})")
            elif command == "REST":
                start = int(argument)
                self.answer("350 restarting")
            elif command == "RETR":
                self.answer("150 sending")
                with passive.accept()[0] as connection:
                    cut = server.cuts.pop(0) if server.cuts else None
                    connection.sendall(server.content[start:cut])
                self.answer("426 aborted" if cut else "226 done")
            else:
                self.answer({"USER": "331 password?", "PASS": "230 hello", "TYPE": "200 ok"}.get(command, "502 what?"))

    def answer(self, line):
        self.wfile.write(f"{line}\r\n".encode())


@contextlib.contextmanager
def serve(path, content, cuts=(), without=()):
    """Yields a server of one file. It keeps the `commands` that it received.

    Its first transfers end at the bytes `cuts`. It does not know the commands `without`.
    """
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.path, server.content, server.cuts, server.commands = path, content, list(cuts), []
        server.without = without
        server.url = f"ftp://127.0.0.1:{server.server_address[1]}/{path}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
