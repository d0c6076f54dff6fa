"""PostgreSQL and RabbitMQ for a laptop, the tests and CI; never for production.

Each is a role that runs the real server as a supervised child of this process, with its data in a directory of
its own. A server that dies is a failure of its role, so the supervisor starts it again; what it had stored is there
again. Nothing is installed on the system, and nothing listens on anything but loopback or a Unix socket.

```
postgres.py          Postgres: the role
rabbitmq.py          RabbitMQ: the role
rabbitmq_node.py     its ports and password, its configuration
rabbitmq_source.py   where the server comes from: installed, unpacked from Debian's packages, Docker
debian.py            fetches and unpacks Debian's packages without installing them
amqp_probe.py        logs in over AMQP to learn whether the broker serves
process.py           a child process, from start to the last signal
survivors.py         what a killed parent left running
claim.py             one process at a time per directory
fetch.py             `python -m roles.embedded.fetch`
```
"""
