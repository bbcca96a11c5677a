"""Generated scenes: a small data set that needs no download and is learnt in minutes.

Every picture has a textured background, distractors, and six to twelve objects whose class is
told by their shape alone: any shape takes any colour, texture, rotation and slant. A third of
the objects are small (longer side under a tenth of the picture's), a quarter overlap another.
The same arguments give the same bytes: each picture depends on (seed, split, position) only.
"""

from ossa.data.scenes.compose import NAMES, draw_scene
from ossa.data.scenes.write import write_scenes

__all__ = ["NAMES", "draw_scene", "write_scenes"]
