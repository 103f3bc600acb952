"""Which frames: from the times of all frames to the indices of the chosen ones. Pure."""

from __future__ import annotations

import numpy as np

from ttvr.errors import VideoError
from ttvr.video._types import Choose
from ttvr.wording import counted

EPSILON = 1e-6  # seconds: times are rationals, rounded
LEAST_STEP = 1e-3  # seconds that the last frame is shown at least, as when it is the only one


class Choice:
    """A caller's rule for choosing frames.

    It is applied to what the headers promise and again to what decodes; for each number of
    candidates the caller is asked once, so that a random rule stays put.

    Args:
        choose: given n candidates, ascending indices 0..n-1; repeats count once.
        fps: None: all frames are candidates; else those shown at 0, 1/fps, 2/fps, ...
        start: seconds from the first frame where candidates begin.
        end: seconds where they end, None is the end of the video.
    """

    def __init__(
        self, choose: Choose, *, fps: float | None, start: float, end: float | None
    ) -> None:
        if (fps is not None and not fps > 0) or start < 0 or (end is not None and end <= start):
            raise ValueError(f"no frames between {start} and {end} s at fps={fps}")
        self._choose = choose
        self._fps = fps
        self._start = start
        self._end = np.inf if end is None else end
        self._asked: dict[int, list[int]] = {}

    def frames(self, times: np.ndarray, length: float | None = None) -> np.ndarray:
        """Ascending distinct indices [T] into `times` of the chosen frames.

        Args:
            times: [n] float64 seconds from the first frame, of all frames in display order.
            length: seconds to the end of the last frame; None: it is shown as long as the one
                before it.

        Raises:
            VideoError: short, where no candidate is left or the rule chooses none.
        """
        candidates = self._candidates(times, length)
        n = len(candidates)
        if n and n not in self._asked:
            self._asked[n] = [int(index) for index in self._choose(n)]
        picks = self._asked.get(n, [])
        if any(not 0 <= index < n for index in picks):
            raise ValueError(f"chosen frames {picks} are not all within 0..{n - 1}")
        if not picks:
            raise VideoError("short", f"no frame to choose: {_say(times, self._start)}")
        return np.unique(candidates[picks])

    def _candidates(self, times: np.ndarray, length: float | None) -> np.ndarray:
        # A clock that runs backwards cannot be searched; the latest time so far can.
        clock = np.maximum.accumulate(times)
        if length is None:
            length = clock[-1] + max(LEAST_STEP, *(clock[-1:] - clock[-2:-1]), 0.0)
        end = min(self._end, length)
        if self._fps is None:
            is_inside = (clock > self._start - EPSILON) & (clock < end - EPSILON)
            if is_inside.any() or self._start > length - EPSILON:
                return np.flatnonzero(is_inside)
            moments = np.array([self._start])  # the whole clip lies within one long frame
        else:
            count = max(0, int(np.ceil((end - self._start - EPSILON) * self._fps)))
            moments = self._start + np.arange(count) / self._fps
        return np.searchsorted(clock, moments + EPSILON, side="right") - 1


def _say(times: np.ndarray, start: float) -> str:
    return f"{counted(len(times), 'frame')} up to {times[-1]:.3f} s, wanted from {start:.3f} s"
