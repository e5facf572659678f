"""Every form of every public dataset, with what its ids mean, from the papers and scripts."""

from __future__ import annotations

from functools import partial

from tests.data import miniatures as m
from tests.data.miniatures import Miniature

_HELD = {"train": 8, "val": 2}
_ISBI = {"train": 24, "val": 6}
_DAVIS = {"train": 4, "val": 2}
_SUN = {"train": 210, "val": 50, "test": 2}
_SUN_NAMES = {0: ("wall", (128, 0, 0)), 36: ("bag", (128, 0, 192))}
_CITY = {0: ("road", (128, 64, 128)), 13: ("car", (0, 0, 142)), 18: ("bicycle", (119, 11, 32))}
_VOC = {0: ("background", (0, 0, 0)), 15: ("person", (192, 128, 128))}
_CONTEXT = {0: ("background", (0, 0, 0)), 6: ("bicycle", (0, 128, 128))}
_MAPILLARY = {0: ("Bird", (165, 42, 42)), 1: ("object--pole", (153, 153, 153))}
_MAP_IDS = ((0, 1, 2, 3), (0, 255, 1, 2), (4,))

FORMS = [
    Miniature(
        *("voc2012", m.voc, (0, 15, 20, 255), (0, 15, 20, 255), (21, 254)),
        lengths={"train": 3, "val": 3, "trainval": 6},
        names=_VOC,
    ),
    Miniature(
        *("voc2012", partial(m.voc, sbd="png"), (0, 15, 20, 255), (0, 15, 20, 255), (21,)),
        {"augmented": True},
        {"train": 5, "val": 3},
    ),
    Miniature(
        *("voc2012", partial(m.voc, sbd="mat"), (0, 15, 20), (0, 15, 20), (21,)),
        {"augmented": True},
        {"train": 5, "val": 3},
    ),
    # person, hat (never annotated) is 25, toothbrush, banner, wood
    Miniature(
        *("coco_stuff", m.coco_stuff, (0, 89, 91, 181, 255), (0, 79, 80, 170, 255), (25, 182)),
        names={
            0: ("person", (128, 0, 0)),
            79: ("toothbrush", (96, 192, 0)),
            80: ("banner", (96, 64, 128)),
            170: ("wood", (0, 224, 192)),
        },
    ),
    Miniature(
        *("coco_panoptic", m.coco_panoptic, (0, 1, 90, 92, 200), (255, 0, 79, 80, 132), (250,)),
        names={
            0: ("person", (220, 20, 60)),
            80: ("banner", (255, 255, 128)),
            132: ("rug-merged", (250, 141, 255)),
        },
    ),
    Miniature(
        *("cityscapes", m.cityscapes, (0, 7, 8, 26, 33, 29), (255, 0, 1, 13, 18, 255), (34, 255)),
        names=_CITY,
    ),
    Miniature(
        *("cityscapes", partial(m.cityscapes, kind="gtCoarse"), (7, 33), (0, 18), (34,)),
        {"annotations": "coarse"},
        {"train": 3, "val": 3, "train_extra": 3},
    ),
    Miniature(
        *("ade20k", m.ade20k, (0, 1, 2, 150), (255, 0, 1, 149), (151, 255)),
        names={
            0: ("wall", (120, 120, 120)),
            149: ("flag", (92, 0, 255)),
            58: ("screen door", (0, 173, 255)),
        },
    ),
    Miniature("mapillary_vistas", m.mapillary, *_MAP_IDS, names=_MAPILLARY),
    Miniature("mapillary_vistas", partial(m.mapillary, version="old"), *_MAP_IDS),
    Miniature(
        *("mapillary_vistas", partial(m.mapillary, version="v2.0"), *_MAP_IDS),
        {"version": "v2.0"},
    ),
    Miniature(
        *("sun_rgbd", m.sun_rgbd, (0, 1, 36, 37), (255, 0, 35, 36), (38,)),
        lengths=_SUN,
        names=_SUN_NAMES,
    ),
    Miniature(
        *("sun_rgbd", partial(m.sun_rgbd, shift=5050, folder="labels"), (1, 2), (0, 1), (40,)),
        {"whole_train": True},
        {"train": 260, "val": 50, "test": 2},
    ),
    Miniature(
        *("sun_rgbd", partial(m.sun_rgbd, folder="semseg-label37"), (0, 36, 255), (0, 36, 255)),
        (200,),
        {"void": 255},
        _SUN,
        _SUN_NAMES,
    ),
    Miniature(
        *("nyu_v2", m.nyu_v2, (0, 1, 40), (255, 0, 39), (41,)),
        lengths={"train": 3, "val": 3, "test": 3},
        names={0: ("wall", (128, 0, 0)), 39: ("otherprop", (64, 0, 64))},
    ),
    Miniature(
        *("nyu_v2", m.nyu_v2, (0, 1, 40), (255, 0, 39), (41,)),
        {"whole_train": True},
        {"train": 6, "val": 3},
    ),
    Miniature(
        *("kitti", m.kitti, (0, 7, 26, 33), (255, 0, 13, 18), (34,)), lengths=_HELD, names=_CITY
    ),
    Miniature(
        *("kitti", m.kitti, (0, 7, 26, 33), (255, 0, 13, 18), (34,)),
        {"whole_train": True},
        {"train": 10, "val": 2},
    ),
    Miniature(
        *("isbi2012", m.isbi_files, (0, 255), (0, 1), (7,)),
        lengths=_ISBI,
        names={0: ("membrane", (0, 0, 0)), 1: ("cell", (255, 255, 255))},
    ),
    Miniature(*("isbi2012", m.isbi_volume, (0, 255), (0, 1), (7,)), lengths=_ISBI),
    Miniature(
        *("isbi2012", m.isbi_volume, (0, 255), (0, 1), (7,)),
        {"channels": 3, "whole_train": True},
        {"train": 30, "val": 6},
    ),
    Miniature(
        *("drive", m.drive, (0, 255, 1), (0, 1, 255), (9,)),
        lengths={**_HELD, "test": 10},
        names={0: ("background", (0, 0, 0)), 1: ("vessel", (255, 255, 255))},
    ),
    Miniature(*("drive", m.drive, (0, 255, 1), (0, 1, 1), (9,)), {"field_of_view": False}, _HELD),
    Miniature(
        *("pascal_context", m.context_png, (0, 1, 2, 6, 59), (0, 1, 2, 6, 59), (60, 255)),
        names={**_CONTEXT, 2: ("bag", (0, 128, 0)), 59: ("wood", (192, 192, 64))},
    ),
    # aeroplane, bag, bicycle, wood; accordion and zebra are none of the 59
    Miniature(
        *("pascal_context", m.context_mat, (0, 2, 9, 23, 458, 1, 459), (0, 1, 2, 6, 59, 0, 0)),
        (460,),
        names=_CONTEXT,
    ),
    Miniature(
        *("pascal_context", m.context_mat, (0, 2, 23, 458, 1), (255, 0, 5, 58, 255), (500,)),
        {"background": False},
        names={0: ("aeroplane", (128, 0, 0)), 58: ("wood", (192, 192, 64))},
    ),
    Miniature(
        *("davis", m.davis, (0, 1, 2, 10), (0, 1, 1, 1), (11,)),
        lengths=_DAVIS,
        names={0: ("background", (0, 0, 0)), 1: ("object", (128, 0, 0))},
    ),
    Miniature(
        *("davis", partial(m.davis, year=2016), (0, 255), (0, 1), (128,)),
        {"year": 2016},
        _DAVIS,
    ),
    Miniature(
        *("camvid", m.camvid, (0, 3, 10, 11), (0, 3, 10, 255), (12,)),
        names={0: ("sky", (128, 128, 128)), 10: ("bicyclist", (0, 128, 192))},
    ),
    Miniature(
        *("camvid", m.camvid_original, (1, 2, 4, 30, 31), (1, 2, 4, 255, 30), (99,)),
        {"classes": 32},
        names={1: ("Archway", (192, 0, 128)), 30: ("Wall", (64, 192, 0))},
    ),
    Miniature(
        *("camvid", m.camvid_original, (1, 2, 4, 21, 30, 31), (1, 10, 1, 0, 255, 1), (99,)),
        names={1: ("building", (128, 0, 0)), 10: ("bicyclist", (0, 128, 192))},
    ),
]
