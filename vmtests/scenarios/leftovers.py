# nginx, started by hand: its master is killed, its workers live on and hold the port. They are
# ended, and nginx is back on its port.

CONFIGURATION = """
pid /run/healed-nginx.pid;
user nobody nogroup;
worker_processes 2;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path /run/healed-nginx-1;
    proxy_temp_path /run/healed-nginx-2;
    fastcgi_temp_path /run/healed-nginx-3;
    uwsgi_temp_path /run/healed-nginx-4;
    scgi_temp_path /run/healed-nginx-5;
    server { listen 127.0.0.1:7001; return 200 here; }
}
"""


def master():
    return machine.succeed("cat /run/healed-nginx.pid").strip()


def workers(of):
    return set(machine.succeed(f"pgrep -P {of}").split())


def answers():
    machine.wait_until_succeeds(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 localhost 7001 | grep here", timeout=60
    )


machine.wait_for_unit("healer.service")
machine.succeed(f"cat > /run/healed-nginx.conf << 'END'{CONFIGURATION}END")

with subtest("started by hand, it is adopted"):
    machine.succeed("nginx -e stderr -c /run/healed-nginx.conf </dev/null >/dev/null 2>&1")
    answers()
    machine.wait_until_succeeds(
        "journalctl -t healer F_PROCESS=nginx -o cat | grep adopted", timeout=60
    )

for attempt in ("adopted", "started by healer"):
    with subtest(f"its master is killed, {attempt}"):
        killed = master()
        left = workers(killed)
        assert len(left) == 2, left
        machine.succeed(f"kill -KILL {killed}")
        machine.wait_until_succeeds(f"test $(cat /run/healed-nginx.pid) != {killed}", timeout=60)
        answers()
        for pid in left:
            machine.fail(f"kill -0 {pid}")
        assert len(workers(master())) == 2

machine.succeed("systemctl stop healer; pkill -KILL nginx; rm -rf /run/healed-nginx*")
