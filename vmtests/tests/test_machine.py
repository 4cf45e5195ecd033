"""What the object `machine` promises, shown on a guest that is plain bash."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from driver import scenario
from driver.machine import Failed, Machine, retry
from driver.shell import Broken
from tests.guest import GuestTest


class Commands(GuestTest):
    def test_status_and_output_are_the_commands(self) -> None:
        self.assertEqual(self.machine.execute("echo one; echo two >&2; exit 7"), (7, "one\n"))

    def test_output_may_be_anything(self) -> None:
        self.assertEqual(self.machine.succeed("printf 'a\\nb\\xff'"), "a\nb\ufffd")

    def test_quotes_and_newlines_of_a_command_are_kept(self) -> None:
        command = "echo \"it's\"\nprintf '%s' '$HOME'"
        self.assertEqual(self.machine.succeed(command), "it's\n$HOME")

    def test_failure_inside_of_a_pipe_is_failure(self) -> None:
        self.assertEqual(self.machine.execute("false | true")[0], 1)

    def test_unset_variable_is_failure(self) -> None:
        self.machine.fail("echo $no_such_variable")

    def test_command_that_takes_too_long_is_ended(self) -> None:
        self.assertEqual(self.machine.execute("sleep 60", timeout=1)[0], 124)

    def test_background_job_that_lets_go_of_the_output_goes_on(self) -> None:
        pid = self.machine.succeed("sleep 60 </dev/null >/dev/null 2>&1 & echo $!").strip()
        self.machine.succeed(f"kill {pid}")

    def test_return_and_output_may_be_left_unchecked(self) -> None:
        self.assertEqual(self.machine.execute("echo x; exit 3", check_return=False), (-1, "x\n"))
        self.assertEqual(self.machine.execute("touch made", check_output=False), (-2, ""))
        self.machine.wait_for_file("made", timeout=10)

    def test_succeed_joins_the_outputs_and_names_what_failed(self) -> None:
        self.assertEqual(self.machine.succeed("echo 1", "echo 2"), "1\n2\n")
        with self.assertRaisesRegex(Failed, r"`exit 5` failed with status 5"):
            self.machine.succeed("true", "exit 5")

    def test_fail_wants_failure(self) -> None:
        self.machine.fail("false", "exit 2")
        with self.assertRaisesRegex(Failed, "`true` succeeded"):
            self.machine.fail("true")

    def test_guest_that_dies_is_told(self) -> None:
        with self.assertRaises(Broken):
            self.machine.succeed("kill -KILL $PPID $(ps -o ppid= $PPID)")


class Waits(GuestTest):
    def test_until_succeeds_repeats_and_returns_the_output(self) -> None:
        command = "echo x >> tries; [ $(wc -l < tries) -ge 2 ] && cat tries"
        self.assertEqual(self.machine.wait_until_succeeds(command, timeout=10), "x\nx\n")

    def test_until_fails_repeats(self) -> None:
        self.machine.succeed("touch there")
        self.machine.wait_until_fails("rm there", timeout=10)

    def test_end_of_patience_tells_the_last_answer(self) -> None:
        with self.assertRaisesRegex(Failed, "status 1: nothing here"):
            self.machine.wait_until_succeeds("echo nothing here; false", timeout=1)

    def test_retry_tells_that_it_is_the_last_time(self) -> None:
        last: list[bool] = []
        with self.assertRaises(Failed):
            retry(lambda is_last: bool(last.append(is_last)), 1)
        self.assertEqual((last[0], last[-1]), (False, True))

    def test_console_is_read_on_from_what_was_found(self) -> None:
        self.console.write_text("ready one\n")
        self.machine.wait_for_console_text(r"ready \w+", timeout=5)
        with self.assertRaises(Failed):
            self.machine.wait_for_console_text("ready", timeout=1)
        threading.Timer(0.5, lambda: self.console.write_text("ready one\nready two\n")).start()
        self.machine.wait_for_console_text("ready two", timeout=10)

    def test_sleep_lets_time_go_by(self) -> None:
        begin = time.monotonic()
        self.machine.sleep(1)
        self.assertGreaterEqual(time.monotonic() - begin, 1)


class Units(GuestTest):
    def test_property_may_hold_an_equals_sign(self) -> None:
        self.assertEqual(self.machine.get_unit_info("web")["ExecStart"], "a=b")
        self.assertEqual(self.machine.get_unit_property("web", "ExecStart"), "a=b")

    def test_active_unit_is_not_waited_for(self) -> None:
        self.machine.wait_for_unit("web", timeout=5)
        self.machine.require_unit_state("web")

    def test_failed_unit_ends_the_wait(self) -> None:
        with self.assertRaisesRegex(Failed, "failed failed"):
            self.machine.wait_for_unit("failed")

    def test_unit_that_nothing_will_start_ends_the_wait(self) -> None:
        with self.assertRaisesRegex(Failed, "no pending jobs"):
            self.machine.wait_for_unit("idle")

    def test_unit_in_another_state_is_told(self) -> None:
        with self.assertRaisesRegex(Failed, "is inactive, not active"):
            self.machine.require_unit_state("idle")

    def test_unit_that_systemctl_does_not_know_is_told(self) -> None:
        with self.assertRaises(Failed):
            self.machine.get_unit_info("unknown")


class Files(GuestTest):
    def test_copy_is_whole(self) -> None:
        content = bytes(range(256)) * 300
        source = self.directory / "source"
        source.write_bytes(content)
        target = self.directory / "new" / "it's here"
        self.machine.copy_from_host_via_shell(str(source), str(target))
        self.assertEqual(target.read_bytes(), content)


class Life(GuestTest):
    def test_it_is_started_by_the_first_command_and_once(self) -> None:
        self.assertEqual(self.boots, 0)
        self.machine.succeed("true")
        self.machine.start()
        self.assertEqual(self.boots, 1)

    def test_boot_that_leads_nowhere_is_repeated(self) -> None:
        self.failing_boots = 2
        self.machine.succeed("true")
        self.assertEqual(self.boots, 3)

    def test_guest_that_never_boots_is_told(self) -> None:
        self.failing_boots = 100
        with self.assertRaisesRegex(Broken, "boot"):
            self.machine.succeed("true")
        self.assertEqual(self.boots, 3)

    def test_after_a_crash_it_is_another(self) -> None:
        self.machine.succeed("true")
        self.machine.crash()
        self.machine.start()
        self.machine.succeed("true")
        self.assertEqual(self.boots, 2)

    def test_it_is_booted_anew_in_good_order(self) -> None:
        self.machine.succeed("true")
        self.machine.reboot()
        self.machine.succeed("true")
        self.assertEqual(self.boots, 2)
        self.machine.shutdown()
        self.machine.wait_for_shutdown()
        self.assertEqual(self.boots, 2)


class Agreement(GuestTest):
    def test_machine_has_each_method_that_scenarios_may_use(self) -> None:
        missing = {name for name in scenario.METHODS if not hasattr(Machine, name)}
        self.assertEqual(missing, set())

    def test_scenarios_use_what_both_drivers_have(self) -> None:
        there = scenario.all_in()
        self.assertTrue(there)
        for one in there:
            with self.subTest(one.name):
                self.assertEqual(scenario.faults(one), [])

    def test_stranger_to_the_nixos_driver_is_found(self) -> None:
        for script, fault in {
            "machine.send_signal(9)": "machine.send_signal is not known to both drivers",
            "client.succeed('true')": "client is not known to both drivers",
            "machine.fail('/bin/sh -c /bin/id')": "/bin/id is not at that place on NixOS",
        }.items():
            with self.subTest(script):
                file = self.directory / "wrong.py"
                file.write_text(script)
                file.with_suffix(".yaml").touch()
                (one,) = scenario.all_in(self.directory)
                self.assertEqual(scenario.faults(one), [f"line 1: {fault}"])

    def test_scenario_of_the_newest_kernel_is_left_out_on_others(self) -> None:
        for script, everywhere in {"pass": True, "# newest kernel: because.\npass": False}.items():
            file = self.directory / "one.py"
            file.write_text(script)
            (one,) = scenario.all_in(self.directory)
            self.assertTrue(one.concerns(newest=True))
            self.assertEqual(one.concerns(newest=False), everywhere)

    def test_scenario_runs_with_the_names_it_expects(self) -> None:
        file = self.directory / "right.py"
        file.write_text(
            "start_all()\n"
            "with subtest('all'):\n"
            "    retry(lambda last: True, 1)\n"
            "    log.info(machine.succeed('echo said > written'))\n"
        )
        (one,) = scenario.all_in(self.directory)
        one.run(self.machine)
        self.assertEqual((self.directory / "written").read_text(), "said\n")


class CommandLine(GuestTest):
    def test_list_names_each_scenario(self) -> None:
        run = Path(__file__).parents[1] / "run"
        listed = subprocess.run(
            [sys.executable, run, "--list"], capture_output=True, text=True, check=True
        ).stdout
        names = [line.split()[0] for line in listed.splitlines()]
        self.assertEqual(names, [one.name for one in scenario.all_in()])
        self.assertEqual(names[0], "boot")
