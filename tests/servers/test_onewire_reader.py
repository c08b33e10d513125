"""raspy.servers.onewire.reader: every text that a probe's file was ever seen to hold, and those that it was not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raspy.common.devices.errors import ReadingError
from raspy.servers.onewire import reader, sysfs
from raspy.servers.onewire.live import Bus, Probe
from raspy.servers.onewire.simulate import BAD, GOOD

TEXTS = [text for text, _ in [*GOOD.values(), *BAD.values()]]


def crc_by_division(data: bytes) -> int:
    """The CRC of 1-Wire computed another way: as the remainder of a division of polynomials, most bit first."""
    bits = int("".join(f"{byte:08b}"[::-1] for byte in data) + "0" * 8, 2)
    for place in range(len(data) * 8 + 7, 7, -1):
        if bits >> place & 1:
            bits ^= 0b1_0011_0001 << (place - 8)
    return int(f"{bits:08b}"[::-1], 2)


def text_of(scratchpad: bytes, verdict: str = "YES") -> bytes:
    """The w1_slave text of eight bytes, as the kernel writes it, with the CRC that belongs to them."""
    data = scratchpad + bytes([crc_by_division(scratchpad)])
    line = " ".join(f"{byte:02x}" for byte in data)
    return f"{line} : crc={data[8]:02x} {verdict}\n{line} t=0\n".encode()


def ds18b20(raw: int, byte6: int, config: int = 0x7F) -> bytes:
    return text_of(raw.to_bytes(2, "little", signed=True) + bytes([0x4B, 0x46, config, 0xFF, byte6, 0x10]))


def kind_of(text: bytes, family: int = 0x28, before: float | None = None, genuine: bool = False) -> str:
    with pytest.raises(ReadingError) as caught:
        reader.decode(text, family, before, genuine)
    assert str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize(("text", "degrees"), GOOD.values(), ids=GOOD)
def test_good_readings_of_real_probes(text: str, degrees: float) -> None:
    assert reader.decode(text.encode(), 0x28) == degrees


@pytest.mark.parametrize(("text", "kind"), BAD.values(), ids=BAD)
def test_bad_readings_of_real_probes_are_no_numbers(text: str, kind: str) -> None:
    assert kind_of(text.encode()) == kind


@pytest.mark.parametrize("text", TEXTS)
def test_any_flipped_bit_of_the_scratchpad_is_found(text: str) -> None:
    data = bytes.fromhex(text[:27])
    for bit in range(72):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        line = " ".join(f"{byte:02x}" for byte in damaged)
        kind = kind_of(f"{line} : crc={damaged[8]:02x} YES\n{line} t=1\n".encode())
        assert kind == "crc"


def test_no_of_the_kernel_counts_though_the_crc_holds() -> None:
    assert kind_of(text_of(bytes.fromhex("51014b467fff0c10"), "NO")) == "crc"


def test_a_crc_other_than_the_bytes_say_is_refused() -> None:
    assert kind_of(b"51 01 4b 46 7f ff 0c 10 ab : crc=ac YES\n51 01 4b 46 7f ff 0c 10 ab t=21062\n") == "crc"


def test_the_first_line_counts_not_the_one_kept_from_before() -> None:
    text = b"79 01 4b 46 7f ff 07 10 0a : crc=0a YES\n51 01 4b 46 7f ff 0c 10 ab t=21062\n"
    assert reader.decode(text, 0x28) == 23.5625


def test_a_real_85_degrees_is_read() -> None:
    assert reader.decode(ds18b20(0x0550, 0x10), 0x28) == 85.0
    assert reader.decode(ds18b20(0x0550, 0x10), 0x28, before=20.0) == 85.0


def test_85_degrees_of_a_clone_is_believed_on_the_way_there_only() -> None:
    always_0c = ds18b20(0x0550, 0x0C)
    assert reader.decode(always_0c, 0x28, before=84.5) == 85.0
    assert reader.decode(always_0c, 0x28, before=90.0) == 85.0
    assert kind_of(always_0c, before=25.0) == "power-on"
    assert kind_of(always_0c) == "power-on"
    other = ds18b20(0x0550, 0x81)
    assert reader.decode(other, 0x28, before=84.5) == 85.0
    assert kind_of(other, before=25.0) == "power-on"
    assert kind_of(other) == "power-on"


@pytest.mark.parametrize("before", [None, 25.0, 80.0, 85.0])
def test_a_genuine_chip_that_has_not_measured_is_not_believed_even_near_85(before: float | None) -> None:
    assert kind_of(ds18b20(0x0550, 0x0C), before=before, genuine=True) == "power-on"
    assert reader.decode(ds18b20(0x0550, 0x10), 0x28, before, genuine=True) == 85.0


def test_at_less_than_12_bits_nothing_is_known_of_byte_6() -> None:
    assert reader.decode(ds18b20(0x0550, 0x0C, config=0x1F), 0x28, before=84.5, genuine=True) == 85.0


@pytest.mark.parametrize(
    ("raw", "byte6", "config", "genuine"),
    [
        (0x157, 0x09, 0x7F, True),
        (0x150, 0x10, 0x7F, True),
        (0x154, 0x0C, 0x7F, None),  # a clone that always has 0x0c has it here too
        (0x155, 0x0C, 0x7F, False),
        (0x157, 0x81, 0x7F, False),
        (0x157, 0x09, 0x3F, None),
    ],
)
def test_a_genuine_chip_is_known_by_byte_6(raw: int, byte6: int, config: int, genuine: bool | None) -> None:
    scratchpad = reader.decode_scratchpad(ds18b20(raw, byte6, config))
    assert reader.genuine_of(scratchpad, 0x28) is genuine
    assert reader.genuine_of(scratchpad, 0x10) is None


def test_25_degrees_of_a_clone_that_begins_with_it_is_judged_by_the_reading_before() -> None:
    text = text_of(bytes.fromhex("900155057f7e8166"))
    assert kind_of(text) == "power-on"
    assert kind_of(text, before=3.0) == "power-on"
    assert reader.decode(text, 0x28, before=24.5) == 25.0
    assert reader.decode(text_of(bytes.fromhex("910155057f7e8166")), 0x28) == 25.0625
    assert reader.decode(ds18b20(0x0190, 0x10), 0x28) == 25.0


def test_a_neighbour_of_85_degrees_is_nothing_special() -> None:
    assert reader.decode(ds18b20(0x0551, 0x0C), 0x28) == 85.0625


def test_85_degrees_of_a_ds18s20_is_judged_by_the_reading_before() -> None:
    text = text_of(bytes.fromhex("aa004b46ffff0c10"))
    assert kind_of(text, 0x10) == "power-on"
    assert kind_of(text, 0x10, before=25.0) == "power-on"
    assert reader.decode(text, 0x10, before=84.75) == 85.0


def test_too_little_power() -> None:
    assert kind_of(ds18b20(0x07FF, 0x0C)) == "power"


@pytest.mark.parametrize("raw", [2000, -880, 0, -1, 1])
def test_ends_of_the_range(raw: int) -> None:
    assert reader.decode(ds18b20(raw, 0x07), 0x28) == raw / 16


@pytest.mark.parametrize("raw", [2001, -881, 0x7FFF, -0x8000, -0x7FF0])
def test_outside_the_range(raw: int) -> None:
    assert kind_of(ds18b20(raw, 0x07)) == "range"


@pytest.mark.parametrize(("config", "degrees"), [(0x7F, 21.4375), (0x5F, 21.375), (0x3F, 21.25), (0x1F, 21.0)])
def test_bits_below_the_resolution_are_not_taken(config: int, degrees: float) -> None:
    assert reader.decode(ds18b20(0x157, 0x09, config), 0x28) == degrees


def test_negative_with_low_resolution() -> None:
    assert reader.decode(ds18b20(-5, 0x09, 0x1F), 0x28) == -0.5


@pytest.mark.parametrize(
    ("bytes_", "degrees"),
    [
        ("32004b46ffff0c10", 25.0),  # data sheet: half degrees 50, COUNT_REMAIN 12 of 16
        ("32004b46ffff0010", 25.75),
        ("ceff4b46ffff0c10", -25.0),
        ("ffff4b46ffff0c10", -1.0),
        ("00004b46ffff0c10", 0.0),
    ],
)
def test_ds18s20(bytes_: str, degrees: float) -> None:
    assert reader.decode(text_of(bytes.fromhex(bytes_)), 0x10) == degrees


@pytest.mark.parametrize("bytes_", ["32004b46ffff0000", "32004b46ffff1110"])
def test_ds18s20_with_counts_that_cannot_be(bytes_: str) -> None:
    assert kind_of(text_of(bytes.fromhex(bytes_)), 0x10) == "text"


def test_a_thermocouple_is_not_taken_for_a_ds1825() -> None:
    assert kind_of(text_of(bytes.fromhex("50014b46f0ff0c10")), 0x3B) == "unsupported"
    assert reader.decode(text_of(bytes.fromhex("50014b467fff0c10")), 0x3B) == 21.0


@pytest.mark.parametrize(("config", "bits", "degrees"), [(0x10, 9, 25.0), (0x35, 10, 25.25), (0x7F, 12, 25.4375)])
def test_a_ds1825_has_its_address_beside_the_resolution(config: int, bits: int, degrees: float) -> None:
    text = ds18b20(0x0197, 0x09, config)
    assert reader.decode(text, 0x3B) == degrees
    assert reader.bits_of(reader.decode_scratchpad(text), 0x3B) == bits
    assert reader.bits_of(reader.decode_scratchpad(text), 0x28) == (12 if config == 0x7F else 0)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00garbage",
        b"51 01 4b 46 7f ff 0c 10 ab : crc=ab",
        b"51 01 4b 46 7f ff 0c 10 : crc=ab YES\n",
        b"t=21062\n",
        b"\n",
        TEXTS[0].encode() + b"more",
        TEXTS[0].encode() * 40,
        TEXTS[0].replace("YES", "yes").encode(),
    ],
)
def test_another_text_is_refused(text: bytes) -> None:
    assert kind_of(text) == "text"


def test_nothing_at_all_and_an_open_line_are_silence() -> None:
    assert kind_of(b"") == "silent"
    line = "ff " * 9
    assert kind_of(f"{line}: crc=c9 NO\n{line}t=-62\n".encode()) == "silent"


@given(
    st.binary(max_size=5000) | st.sampled_from(TEXTS).map(str.encode),
    st.sampled_from(list(reader.FAMILIES)),
    st.none() | st.floats(-55, 125),
)
@example(TEXTS[5].encode(), 0x28, None)
def test_arbitrary_bytes_give_no_number(text: bytes, family: int, before: float | None) -> None:
    try:
        degrees = reader.decode(text, family, before)
    except ReadingError:
        return
    assert_believable(text, degrees)


@given(
    st.binary(min_size=9, max_size=9),
    st.booleans(),
    st.sampled_from(["YES", "NO"]),
    st.sampled_from(list(reader.FAMILIES)),
    st.none() | st.floats(-55, 125),
)
def test_a_number_comes_only_with_a_crc_that_holds(
    data: bytes, mend: bool, verdict: str, family: int, before: float | None
) -> None:
    if mend:
        data = data[:8] + bytes([crc_by_division(data[:8])])
    line = " ".join(f"{byte:02x}" for byte in data)
    text = f"{line} : crc={data[8]:02x} {verdict}\n{line} t=20000\n".encode()
    try:
        degrees = reader.decode(text, family, before)
    except ReadingError:
        return
    assert verdict == "YES"
    assert_believable(text, degrees)


def assert_believable(text: bytes, degrees: float) -> None:
    data = bytes.fromhex(text[:27].decode())
    assert crc_by_division(data[:8]) == data[8]
    assert any(data)
    assert -55 <= degrees <= 125


@given(st.binary(max_size=64))
def test_the_crc_is_that_of_the_division(data: bytes) -> None:
    assert reader.crc8(data) == crc_by_division(data)


# --- Without the scratchpad ----------------------------------------------------------------------------------------


def plain_kind(text: bytes, before: float | None = None) -> str:
    with pytest.raises(ReadingError) as caught:
        reader.decode_plain(text, before)
    return caught.value.kind


@given(st.integers(-880, 2000).filter(lambda raw: raw not in (0, 1360)))
def test_the_number_alone_gives_the_very_sixteenth(raw: int) -> None:
    assert reader.decode_plain(b"%d\n" % int(raw * 62.5)) == raw / 16


@pytest.mark.parametrize(("bits", "degrees"), [(0, 21.4375), (12, 21.4375), (11, 21.375), (10, 21.25), (9, 21.0)])
def test_the_number_alone_has_the_bits_of_the_resolution(bits: int, degrees: float) -> None:
    assert reader.decode_plain(b"21437\n", bits=bits) == degrees


def test_a_number_between_two_sixteenths_is_taken_as_it_is() -> None:
    assert reader.decode_plain(b"21400\n") == 21.4


def test_what_the_number_alone_cannot_tell_is_judged_by_the_reading_before() -> None:
    assert plain_kind(b"85000\n") == plain_kind(b"85000\n", before=20.0) == "power-on"
    assert reader.decode_plain(b"85000\n", before=84.0) == 85.0
    assert plain_kind(b"0\n") == plain_kind(b"0\n", before=20.0) == "silent"
    assert reader.decode_plain(b"0\n", before=0.0625) == 0.0
    assert plain_kind(b"127937\n") == "power"
    assert plain_kind(b"125062\n") == plain_kind(b"-55062\n") == "range"


@pytest.mark.parametrize("text", [b"\n", b"21.0\n", b"21062 \n", b"1234567\n", b"\xff", b"+1\n", b"0x1\n", b"1\n2\n"])
def test_another_text_than_a_number_is_refused(text: bytes) -> None:
    assert plain_kind(text) == "text"


def test_no_number_is_silence() -> None:
    assert plain_kind(b"") == "silent"


@given(st.binary(max_size=40), st.none() | st.floats(-55, 125), st.sampled_from([0, 9, 10, 11, 12]))
def test_arbitrary_bytes_for_a_number_give_none_that_cannot_be(text: bytes, before: float | None, bits: int) -> None:
    try:
        degrees = reader.decode_plain(text, before, bits)
    except ReadingError:
        return
    assert -55 <= degrees <= 125


# --- Files ---------------------------------------------------------------------------------------------------------


def file_kind(path: str) -> str:
    with pytest.raises(ReadingError) as caught:
        reader.read(path, 0x28)
    assert str(caught.value)
    return caught.value.kind


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "w1_slave"
    assert file_kind(str(file)) == "gone"
    file.write_text(TEXTS[0])
    assert reader.read(str(file), 0x28).degrees == 21.0625
    file.write_bytes(b"")
    assert file_kind(str(file)) == "silent"
    file.write_bytes(b"\xff" * 5_000_000)
    assert file_kind(str(file)) == "text"
    file.unlink()
    file.mkdir()
    assert file_kind(str(file)) == "io"
    assert file_kind(str(file / "w1_slave")) == "gone"
    assert file_kind("/dev/zero") == "text"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert file_kind(str(loop)) == "io"


def test_no_more_than_a_page_is_read(tmp_path: Path) -> None:
    file = tmp_path / "w1_slave"
    file.write_bytes(b"x" * 1_000_000)
    assert len(reader.slurp(str(file))) == 4096


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    file = tmp_path / "w1_slave"
    file.write_bytes(b"garbage")
    before = len(os.listdir("/proc/self/fd"))
    for path in (file, tmp_path, tmp_path / "missing"):
        file_kind(str(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [TEXTS[6], TEXTS[0]]
    monkeypatch.setattr(reader, "slurp", lambda path: texts.pop(0).encode())
    assert reader.read("x", 0x28) == reader.Reading(21.0625, bits=12, retried=True, genuine=False)
    texts[:] = [TEXTS[6], TEXTS[6], TEXTS[0]]
    assert file_kind("x") == "crc"
    assert texts == [TEXTS[0]]


def test_entries(tmp_path: Path) -> None:
    for name in ("28-031655c9d5ff", "10-00080283A977", "3b-0000000a1b2c", "w1_bus_master1", "01-0000000a1b2c"):
        (tmp_path / name).mkdir()
    for name in ("28-031655c9d5f", "28-031655c9d5ffa", "28-031655C9D5FF", "xx-031655c9d5ff", "28-031655c9d5ff\n"):
        (tmp_path / name).mkdir()
    found = sysfs.scan(str(tmp_path))
    assert {name: os.path.basename(slave.directory) for name, slave in found.probes.items()} == {
        "28-031655c9d5ff": "28-031655C9D5FF",
        "10-00080283a977": "10-00080283A977",
        "3b-0000000a1b2c": "3b-0000000a1b2c",
    }
    assert found.unknown == {"": ["01-0000000a1b2c"]}
    os.mkdir(os.fsencode(tmp_path) + b"/w1_bus_master\xff")
    os.symlink(os.fsencode("../w1_bus_master") + b"\xff/28-0000000000ff", tmp_path / "28-0000000000ff")
    assert sysfs.scan(str(tmp_path)).masters == found.masters
    assert sysfs.scan(str(tmp_path)).probes["28-0000000000ff"].master == ""
    assert found.masters == {"w1_bus_master1": ""}


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sysfs.scan(str(tmp_path / "missing"))


def test_temperature_is_read_where_w1_slave_is_missing(tmp_path: Path) -> None:
    (tmp_path / "temperature").write_text("21062\n")
    (tmp_path / "resolution").write_text("12\n")
    (tmp_path / "conv_time").write_text("750\n")
    reading = sysfs.measure(str(tmp_path), 0x28, None, 0, "")
    assert reading == reader.Reading(21.0625, bits=12, plain=True, conversion=0.75)
    (tmp_path / "temperature").unlink()
    assert file_kind(str(tmp_path / "w1_slave")) == "gone"


def test_temperature_is_read_where_w1_slave_may_not_be(tmp_path: Path) -> None:
    (tmp_path / "w1_slave").mkdir()  # as root, nothing may not be read
    (tmp_path / "temperature").write_text("21062\n")
    assert reader.read(str(tmp_path / "w1_slave"), 0x28) == reader.Reading(21.0625, plain=True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("750\n", 0.75), ("94", 0.094), ("", 0.0), ("-1", 0.0), ("x", 0.0), ("9" * 30, 0.0)]
)
def test_the_conversion_time_is_what_the_kernel_says(tmp_path: Path, text: str, seconds: float) -> None:
    (tmp_path / "conv_time").write_text(text)
    assert sysfs.conversion_time(str(tmp_path)) == seconds


@pytest.mark.parametrize("family", list(reader.FAMILIES))
@given(raw=st.integers(-880, 2000).filter(lambda raw: raw not in (1360, 2047)))
def test_what_a_live_probe_says_is_what_it_measures(family: int, raw: int) -> None:
    probe = Probe(Bus("/nowhere", 0.1, bulk=False), f"{family:02x}-0000000a1b2c", raw / 16)
    assert reader.decode(text_of(probe.scratchpad_of(raw / 16)), family) == raw / 16
