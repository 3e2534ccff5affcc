import pytest

from selfrecon_warp.config import load_config
from selfrecon_warp.errors import ConfigError
from selfrecon_warp.train.published_config import read_published_config

pytest.importorskip("pyhocon")

CONF = """
train {
  nepoch = 201
  sample_pix_num = 2048
  initial_iters = -1
  skinner_pose_type = 1
  shuffle = True
  num_workers = 3
  opt_pose = True
  opt_trans = True
  opt_camera { focal_length = True, princeple_points = True, quat = False, T = True }
  learning_rate = 1.e-4
  scheduler { type = MultiStepLR, milestones = [10, 30, 80, 130], factor = 0.333 }
  coarse { start_epoch = 0, point_render { radius = 0.006, remesh_intersect = 30, batch_size = 3 } }
  medium { start_epoch = 6, point_render { radius = 0.00465, remesh_intersect = 60, batch_size = 2 } }
  fine { start_epoch = 12, point_render { radius = 0.0041, remesh_intersect = 120, batch_size = 1 } }
}
sdf_net { multires = 6 }
mlp_deformer { type = MLPTranslator, condlen = 128, multires = 6 }
render_net { type = RenderingNetwork_view_norm, condlen = 256, multires_n = 0, multires_v = 4 }
loss_coarse {
  color_weight = 0.5, normal_weight = 0.1, weighted_normal = True, grad_weight = 1.0, offset_weight = 0.0
  dct_weight = 2.0, def_regu { weight = 0.1, c = 0.5 }
  pc_weight {
    weight = 60.0, mask_weight = 1.0, laplacian_weight = -1.0, edge_weight = -1.0, norm_weight = -1.0
    def_consistent { weight = 0.6, c = 0.01 }
  }
}
loss_medium {
  color_weight = 1.0, dct_weight = "3.0"
  pc_weight { weight = 30.0, def_consistent { weight = 0.2, c = 0.01 } }
}
loss_fine {
  color_weight = 1.0, dct_weight = 4.0, sample_pix_num = 6144, def_regu { weight = 0.07, c = 0.5 }
  pc_weight { weight = 10.0, def_consistent { weight = 0.1, c = 0.01 } }
}
"""


def read(tmp_path, text):
    path = tmp_path / "config.conf"
    path.write_text(text)
    return read_published_config(path)


def test_the_published_values_are_the_packaged_configuration(tmp_path):
    assert read(tmp_path, CONF) == load_config("selfrecon")


def test_what_the_file_leaves_out_is_as_packaged(tmp_path):
    assert read(tmp_path, "train { nepoch = 201 }") == load_config("selfrecon")


def test_a_negative_start_drops_the_stage_and_a_negative_weight_the_term(tmp_path):
    config = read(
        tmp_path,
        "train { nepoch = 20, coarse.start_epoch = -1, medium.start_epoch = 0, fine.start_epoch = 5 }\n"
        "loss_medium.normal_weight = -0.1, loss_medium.pc_weight.def_consistent.c = -1",
    )
    assert [(stage.name, stage.epochs) for stage in config.stages] == [("medium", 5), ("fine", 15)]
    assert config.stages[0].losses.normal == 0.0
    assert config.stages[0].losses.consistency_scale is None


def test_switches_become_rates_and_terms(tmp_path):
    config = read(
        tmp_path,
        "train { opt_pose = False, initial_iters = 300, opt_camera { focal_length = True, quat = False } }\n"
        "render_net.type = no_normal",
    )
    assert (config.optimiser.poses, config.optimiser.trans) == (0.0, 1e-4)
    assert config.optimiser.camera_terms == ("focal",)
    assert (config.init.iterations, config.init.cache) == (300, False)
    assert config.model.appearance.inputs == "no_normal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train { nepochs = 3 }", r"train\.nepochs is no key.*did you mean train\.nepoch"),
        ("train { nepoch = many }", r"train\.nepoch must be a number, got 'many'"),
        ("train { opt_pose = perhaps }", r"train\.opt_pose must be true or false"),
        ("train { coarse.start_epoch = -1, medium.start_epoch = -1, fine.start_epoch = -1 }", "one must take place"),
        ("train { coarse.point_render.batch_size = 0 }", r"stages\.0\.frames_per_step = 0"),
        ("train { nepoch = ", "not HOCON"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.conf: no such file"):
        read_published_config(tmp_path / "absent.conf")
