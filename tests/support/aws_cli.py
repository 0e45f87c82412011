"""The AWS CLI, imported once for all calls of a test program: importing it takes most of a call's time.

`aws_cli.py --serve SOCKET` listens; `aws` is installed as this file, and has the server do its call, in a process, an
environment and a folder of the call's own, at the caller's standard input and outputs.
"""

import marshal
import os
import sys

# Whose calls read a service's description once for all. Any other is read by each of its calls.
SERVICES = "cloudformation cloudwatch dynamodb events iam kms lambda logs route53 s3 scheduler sns sqs sts".split()
# With one of these, a call reads a configuration of its own.
OWN = "AWS_CONFIG_FILE AWS_DEFAULT_PROFILE AWS_PROFILE AWS_SHARED_CREDENTIALS_FILE".split()


def call(server):
    # What `socket` adds to it takes half of this program's time.
    import _socket

    connection = _socket.socket(_socket.AF_UNIX)
    connection.connect(server)
    message = marshal.dumps([sys.argv[1:], dict(os.environ), os.getcwd()])
    descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)
    connection.sendmsg([len(message).to_bytes(4, "big")], [rights])
    connection.sendall(message)
    status = connection.recv(1)
    sys.exit(status[0] if status else 1)


def serve(path):
    import gc
    import signal
    import socket

    from awscli import clidriver
    from awscli.customizations.cloudformation import deployer

    driver = clidriver.create_clidriver()
    for service in SERVICES:
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        driver.session.create_client(service, "us-east-1", **keys)
    # Otherwise each call would copy what it does not use.
    gc.collect()
    gc.freeze()
    gc.disable()
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
                answer(connection, driver, clidriver)
            connection.close()


def answer(connection, driver, clidriver):
    import socket
    import threading

    length, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    message = b""
    while len(message) < int.from_bytes(length, "big"):
        message += connection.recv(1 << 16)
    arguments, environment, folder = marshal.loads(message)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.chdir(folder)
    is_own = environment.get("HOME") != os.environ["HOME"] or any(name in environment for name in OWN)
    # Importing the AWS CLI has set where its data is.
    data = {"AWS_DATA_PATH": os.environ["AWS_DATA_PATH"]}
    os.environ.clear()
    os.environ.update(environment | data)
    # A call ends with its caller.
    threading.Thread(target=lambda: (connection.recv(1), os._exit(1)), daemon=True).start()
    try:
        status = (clidriver.create_clidriver() if is_own else driver).main(arguments)
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
