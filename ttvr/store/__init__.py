"""The feature folder (format `ttvr-features/1`): read it, write it, go on with it.

What survives. The death of the process at any point, `kill -9` included: the same command run
again gives the bytes of an undisturbed run. A power cut: shards that are closed, `meta.json` and
`ids.txt` are synced; of the open shard the disk may lose the rows of the last seconds, which show
as rows of zeros and are made again, or journal lines, whose rows are made again too.
"""

from ttvr.store._again import DRAWN, extract_again
from ttvr.store._claim import check_usable
from ttvr.store._earlier import Outcome, departed, known
from ttvr.store._export import Exported, export_per_video
from ttvr.store._features import Features, attempts
from ttvr.store._files import ORIGIN
from ttvr.store._import import Files, Taken, find_per_video, read_per_video
from ttvr.store._journal import Source
from ttvr.store._origin import MOST_FRAMES
from ttvr.store._rows import Rows
from ttvr.store._texts import TextWriter
from ttvr.store._views import Chosen, Padded
from ttvr.store._writer import Settings, Writer

__all__ = [
    "DRAWN",
    "MOST_FRAMES",
    "ORIGIN",
    "Chosen",
    "Exported",
    "Features",
    "Files",
    "Outcome",
    "Padded",
    "Rows",
    "Settings",
    "Source",
    "Taken",
    "TextWriter",
    "Writer",
    "attempts",
    "check_usable",
    "departed",
    "export_per_video",
    "extract_again",
    "find_per_video",
    "known",
    "read_per_video",
]
