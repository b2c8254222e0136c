"""What is left out of a file is, byte for byte, in another; what is read of it is whole pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.masking.sameness import other_parts

PAGE = 8
PARTS = st.lists(st.integers(0, 200), unique=True, max_size=12).map(
    lambda places: list(zip(sorted(places)[::2], sorted(places)[1::2], strict=False))
)


@given(PARTS, st.integers(0, 200))
def test_whatever_is_not_the_same_is_read_in_whole_pages(same: list[tuple[int, int]], size: int) -> None:
    same = [(start, min(end, size)) for start, end in same if start < size]
    read = {byte for start, end in other_parts(same, size, PAGE) for byte in range(start, end)}
    alike = {byte for start, end in same for byte in range(start, end)}
    pages = {byte // PAGE for byte in range(size) if byte not in alike}
    assert pages <= {byte // PAGE for byte in read}
    assert all(start % PAGE == 0 and (end % PAGE == 0 or end == size) for start, end in other_parts(same, size, PAGE))
    whole = {page for page in range(size // PAGE) if set(range(page * PAGE, (page + 1) * PAGE)) <= alike}
    joined = [part for part in same if part[0] % PAGE == 0 and part[1] % PAGE == 0]
    assert not joined or whole - {byte // PAGE for byte in read}
