import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from rlhydra.console import choose_mode, closing_table, open_console, start_panel
from rlhydra.pace import Pace, time_left
from rlhydra.progress import Progress
from rlhydra.wording import count, duration, number

FOLDER = "outputs/ppo_cartpole/2026-01-01_12-00-00"


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def screen(width, **kwargs):
    return Console(file=io.StringIO(), width=width, height=24, highlight=False, **kwargs)


def text(console):
    return console.file.getvalue()


def metric(*values, interval=True):
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if interval else (None, None)
    return {"mean": sum(known) / len(known), "low": low, "high": high, "sessions": list(values)}


def trial(returns=(500.0, 490.0, 480.0), status="completed", error=None, interval=True):
    sessions = [
        {"index": index, "status": status, "frame": 200_000, "wall_time": 61.2, "error": error}
        for index in range(len(returns))
    ]
    names = ("final_return", "best_return", "strength", "stability")
    metrics = {name: metric(*returns, interval=interval) for name in names}
    return {"status": status, "sessions": sessions, "metrics": metrics, "random_return": 22.3}


def close(console, result):
    commands = {"watch": f"python -m rlhydra.enjoy {FOLDER}"}
    closing_table(
        console,
        result,
        title="ppo on CartPole-v1",
        files={"report": f"{FOLDER}/report.md"},
        commands=commands,
    )
    return text(console)


@pytest.mark.parametrize("width", [80, 160])
def test_panel_tells_what_runs_and_how_to_resume_it(width):
    console = screen(width)
    start_panel(
        console,
        agent="ppo",
        env="CartPole-v1",
        sessions=4,
        parallel=2,
        seed=7,
        max_frame=200_000,
        num_envs=8,
        device="cpu",
        cores=2,
        folder=FOLDER,
    )
    shown = text(console)
    for words in ("ppo on CartPole-v1", "seed 7", "200,000", "8 environments", "cpu, 2 cores"):
        assert words in shown
    assert f"python -m rlhydra.resume {FOLDER}\n" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_long_command_stays_in_one_piece():
    console = screen(80)
    folder = "/a/folder/" + "x" * 100
    closing_table(console, trial(), title="ppo", files={}, commands={"do": f"python {folder}"})
    assert f"python {folder}\n" in text(console)


@pytest.mark.parametrize("width", [80, 160])
def test_closing_table_has_a_row_a_session_the_interval_and_the_baseline(width):
    shown = close(screen(width), trial())
    assert len(re.findall(r"^ +\d +completed +200k +1:01 ", shown, re.MULTILINE)) == 3
    assert re.search(r"mean +490\.0", shown)
    assert re.search(r"95 % +\[480\.0, 500\.0\]", shown)
    assert re.search(r"random +22\.3", shown)
    assert f"{FOLDER}/report.md" in shown
    assert ("stability" in shown) == (width == 160)
    assert max(map(len, shown.splitlines())) <= width


def test_two_sessions_have_a_spread_and_one_has_neither_mean_nor_interval():
    assert "spread" in close(screen(80), trial(returns=(500.0, 480.0)))
    alone = close(screen(80), trial(returns=(500.0,), interval=False))
    assert "mean" not in alone
    assert "95 %" not in alone


def test_a_failed_session_is_shown_with_its_error():
    shown = close(screen(80), trial((500.0, None), "failed", "ValueError: [no] markup"))
    assert "session 1 failed: ValueError: [no] markup" in shown
    assert re.search(r"1 +failed +200k +1:01 +- ", shown)


def run(progress, clock, *, seconds, rate, max_frame, index=0, step=0.25):
    """Report a session of constant speed until it ends or `seconds` have passed."""
    start = clock.now
    while clock.now < start + seconds:
        clock.now += step
        frame = min(max_frame, int((clock.now - start) * rate))
        state = "completed" if frame == max_frame else "running"
        progress.update(index, state=state, frame=frame, last_return=12.3, best_return=45.6)
        if state == "completed":
            return


@pytest.mark.parametrize("width", [80, 160])
def test_live_table_has_a_line_a_session_and_one_for_all(width):
    clock, console = Time(), screen(width)
    progress = Progress(3, 200_000, "silent", console, clock)
    run(progress, clock, seconds=10, rate=5000, max_frame=200_000)
    console.print(progress.table())
    shown = text(console)
    assert re.search(r" 0 +running .* 50k/200k +5,000 +12\.3 +45\.6 +0:30$", shown, re.MULTILINE)
    assert len(re.findall(r"queued .* 0/200k", shown)) == 2
    assert re.search(r"all +0 of 3 done .* 50k/600k +5,000 +1:50$", shown, re.MULTILINE)
    assert "elapsed 0:10" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_sessions_beyond_the_height_are_counted_and_running_ones_shown():
    clock, console = Time(), screen(80)
    progress = Progress(64, 1000, "silent", console, clock)
    progress.update(63, state="running", frame=10)
    progress.update(0, state="completed", frame=1000)
    console.print(progress.table())
    shown = text(console)
    assert len(shown.splitlines()) < console.height
    assert "63  running" in shown
    assert "elapsed 0:00, 1 completed not shown, 44 queued not shown" in shown


def test_plain_mode_prints_a_line_every_ten_seconds_and_at_the_end():
    clock, console = Time(), screen(80)
    with Progress(1, 200_000, "plain", console, clock) as progress:
        run(progress, clock, seconds=60, rate=5000, max_frame=200_000)
    lines = text(console).splitlines()
    assert [line.split()[0] for line in lines] == ["0:00", "0:10", "0:20", "0:30", "0:40"]
    assert lines[2].split()[1:5] == ["session", "0", "running", "101.2k/200k"]
    assert "completed   200k/200k  5,000/s last   12.3 best   45.6" in lines[-1]
    assert max(map(len, lines)) <= 80


def test_silent_mode_says_nothing(capsys):
    console = open_console("silent")
    with Progress(1, 100, "silent") as progress:
        progress.update(0, state="running", frame=50)
        progress.note("a note")
    console.file = io.StringIO()
    assert close(console, trial()) == ""
    assert capsys.readouterr() == ("", "")


def test_live_mode_leaves_the_terminal_clean_and_closes_twice():
    console = screen(80, force_terminal=True)
    with Progress(1, 100, "live", console) as progress:
        progress.update(0, state="running", frame=50)
        progress.close()
    assert text(console).rstrip().endswith("\x1b[2K")
    assert "\x1b[?25h" in text(console)


def test_without_colours_there_are_none(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = screen(80, force_terminal=True)
    close(console, trial())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text(console))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_mode_follows_the_wish_and_the_stream(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert choose_mode(None, Terminal()) == "live"
    assert choose_mode(None, io.StringIO()) == "plain"
    assert choose_mode(True, io.StringIO()) == "plain"
    assert choose_mode(False, Terminal()) == "silent"
    monkeypatch.setenv("TERM", "dumb")
    assert choose_mode(None, Terminal()) == "plain"


def staircase(now):
    """Rollouts of 1.5 s at 2000 frames/s, then 4.5 s of learning without a message."""
    cycle, phase = divmod(now, 6.0)
    return int(cycle * 3000 + min(phase, 1.5) * 2000), phase <= 1.5


def warm_up(now):
    """Ten times as fast until learning starts at 2 % of the frames."""
    return int(50_000 * now / 2 if now < 0.4 else 10_000 + 2500 * (now - 0.4)), True


@pytest.mark.parametrize(
    ("curve", "max_frame"),
    [(lambda now: (int(3000 * now), True), 600_000), (staircase, 300_000), (warm_up, 500_000)],
    ids=["steady", "rollouts", "learning starts late"],
)
def test_time_left_is_right_within_a_fifth_after_the_first_tenth(curve, max_frame):
    pace, errors, now = Pace(), [], 0.0
    pace.phase = "running"
    end = next(second / 10 for second in range(100_000) if curve(second / 10)[0] >= max_frame)
    while now < end:
        now += 0.25
        frame, heard = curve(now)
        if heard:
            pace.add(now, frame)
        if frame >= max_frame / 10 and end - now > 30:  # five rollouts: no guess is finer than one
            (left,) = time_left([pace], max_frame, now)
            errors.append(abs(left - (end - now)) / (end - now))
    assert len(errors) > 100
    assert max(errors) < 0.2


def test_a_restart_begins_anew():
    pace = Pace()
    for second in range(20):
        pace.add(second, 1000 * second)
    for second in range(20, 30):
        pace.add(second, 5000 + 100 * (second - 20))
    assert pace.rate == pytest.approx(100)
    assert pace.average == pytest.approx(100)


def test_queued_sessions_wait_for_a_place_and_take_the_mean_pace():
    paces = [Pace() for _ in range(4)]
    for pace, rate in zip(paces[:2], (100, 50), strict=True):
        pace.phase = "running"
        for second in range(11):
            pace.add(second, rate * second)
    # The first ends after 10 s, the second after 30 s; 2000 frames at 75 a second take 26.7 s.
    left = time_left(paces, 2000, now=10.0)
    assert left == pytest.approx([10, 30, 10 + 26.667, 30 + 26.667], abs=0.01)


def test_nothing_known_is_no_time():
    assert time_left([Pace(), Pace()], 100, now=5.0) == [None, None]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0.00"),
        (-0.5, "-0.50"),
        (-20.96, "-21.0"),
        (499.96, "500.0"),
        (12345.6, "12,346"),
        (2.3e-5, "2.30e-05"),
        (1.5e6, "1.50e+06"),
    ],
)
def test_number(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ("frames", "written"),
    [
        (None, "-"),
        (0, "0"),
        (9999, "9,999"),
        (10_000, "10k"),
        (123_456, "123.5k"),
        (10_000_000, "10M"),
        (12_345_678, "12.35M"),
        (2e9, "2G"),
    ],
)
def test_count(frames, written):
    assert count(frames) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (754, "12:34"),
        (3723, "1:02:03"),
        (183_600, "2d 03h"),
    ],
)
def test_duration(seconds, written):
    assert duration(seconds) == written


def test_the_console_imports_neither_torch_nor_matplotlib():
    code = "import sys, rlhydra.progress; print(sys.modules.keys() & {'torch', 'matplotlib'})"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "set()"
