"""The AWS CLI, imported once for all calls of a test program: importing it takes most of a call's time.

`aws_cli.py --serve SOCKET` listens; `aws` is installed as this file, and has the server do its call, in a process, an
environment and a folder of the call's own, at the caller's standard input and outputs.
"""

import os
import socket
import sys


def call(server):
    import json

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        message = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(message)
        status = connection.recv(1)
    sys.exit(status[0] if status else 1)


def serve(path):
    import signal

    from awscli import clidriver
    from awscli.customizations.cloudformation import deployer

    clidriver.create_clidriver()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        print("listening", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                # The AWS CLI names a change set by the second, and the emulator keeps executed ones.
                deployer.Deployer.__init__.__defaults__ = (f"process-{os.getpid()}-",)
                answer(connection, clidriver)
            connection.close()


def answer(connection, clidriver):
    import json
    import threading

    length, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    message = b""
    while len(message) < int.from_bytes(length, "big"):
        message += connection.recv(1 << 16)
    arguments, environment, folder = json.loads(message)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(folder)
    # Importing the AWS CLI has set where its data is.
    data = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}
    os.environ.clear()
    os.environ.update(environment | data)
    sys.argv = ["aws", *arguments]
    # A call ends with its caller.
    threading.Thread(target=lambda: (connection.recv(1), os._exit(1)), daemon=True).start()
    try:
        status = clidriver.main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(bytes([status & 255]))
    os._exit(0)


if sys.argv[1:2] == ["--serve"]:
    serve(sys.argv[2])
elif "AWS_CLI_SERVER" in os.environ:
    call(os.environ["AWS_CLI_SERVER"])
else:
    os.execv(sys.executable, [sys.executable, "-m", "awscli", *sys.argv[1:]])
