"""PostgreSQL and RabbitMQ for a laptop, the tests and CI; never for production.

Each is a role that runs the real server as a supervised child of this process, with its data in a directory of its
own. A server that dies is a failure of its role, so the supervisor starts it again, and what it had stored is there
again. Nothing is installed on the system, and nothing listens on anything but loopback or a Unix socket.

```
postgres.py           the role Postgres
rabbitmq.py           the role RabbitMQ
rabbitmq_node.py      its ports, password and configuration
rabbitmq_source.py    where its server comes from: installed, unpacked, Docker
debian.py             unpacks it from Debian's packages
rabbitmq_native.py    runs it as a child process
rabbitmq_docker.py    runs it in a container
amqp_probe.py         logs in, to learn whether it serves
process.py            a child process, from its start to its last signal
survivors.py          what a parent that was killed left running
claim.py              one process at a time per directory
paths.py              private directories, short paths
fetch.py              `python -m roles.embedded.fetch`
```
"""
