"""A function of a batch of images for each primitive: MindSpore compiles no lambdas."""

import mindspore as ms
from mindspore import ops


def add_a_number(x):
    return x + 2.5


def arg_max(x):
    return ops.argmax(x, 1).astype(ms.float32)


def broadcast(x):
    return ops.broadcast_to(x[:, :1], (-1, 4, -1, -1))


def cast(x):
    return (x > 0).astype(ms.float32)


def clamp(x):
    return ops.clamp(x, -0.5, 0.5)


def concat(x):
    return ops.concat((x, x * 2), axis=1)


def cumsum(x):
    return ops.cumsum(x, 2)


def cos_and_sin(x):
    return ops.cos(x) + ops.sin(x)


def divide(x):
    return x / (x * x + 1)


def expand_dims(x):
    return ops.expand_dims(x, 2)


def floor_divide(x):
    return x // 0.3


def gather(x):
    return ops.gather(x, ms.Tensor([2, 0]), 1)


def interpolate_bilinear(x):
    return ops.interpolate(x, size=(13, 9), mode="bilinear")


def interpolate_bilinear_corners(x):
    return ops.interpolate(x, size=(13, 9), mode="bilinear", align_corners=True)


def interpolate_nearest(x):
    return ops.interpolate(x, size=(13, 9), mode="nearest")


def interpolate_nearest_smaller(x):
    return ops.interpolate(x, size=(3, 4), mode="nearest")


def log(x):
    return ops.log(ops.abs(x) + 1)


def lp_norm(x):
    return ops.norm(x, dim=(2, 3), keepdim=True)


def matmul(x):
    return ops.matmul(x, x.swapaxes(2, 3))


def max(x):
    return ops.max(x, 1)[0]


def mean(x):
    return ops.mean(x, (2, 3))


def mean_kept(x):
    return ops.mean(x, (2, 3), True)


def mean_of_all_channels(x):
    return x.mean(1)


def minimum_and_maximum(x):
    return ops.maximum(ops.minimum(x, 1.0), -1.0)


def negative(x):
    return -x


def power(x):
    return ops.pow(ops.abs(x), 1.5)


def reshape(x):
    return x.reshape(x.shape[0], 3, 4, 12)


def reshape_of_images_and_channels(x):
    return x.reshape(x.shape[0] * 3, 8, 6)


def reverse(x):
    return x[:, ::-1]


def rsqrt(x):
    return ops.rsqrt(ops.abs(x) + 1)


def select(x):
    return ops.select(x > 0, x, x * 0.1)


def sign_and_floor(x):
    return ops.sign(x) + ops.floor(x) + ops.ceil(x)


def slice(x):
    return x[:, 1:, 2:7:2, -3:-1]


def slice_an_index(x):
    return x[:, 1]


def slice_several_indices(x):
    return x[:, -1, :, 2]


def slice_a_new_axis(x):
    return x[:, None, 1:]


def slice_an_ellipsis(x):
    return x[..., 0]


def softplus(x):
    return ops.softplus(x)


def split(x):
    return ops.split(x, [1, 2], axis=1)[1]


def sqrt_and_reciprocal(x):
    return ops.sqrt(ops.abs(x)) + ops.reciprocal(x)


def squeeze(x):
    return ops.squeeze(x[:, :1], 1)


def stack(x):
    return ops.stack((x, x * 2), 1)


def sum(x):
    return ops.sum(x, (2, 3))


def sum_of_squares(x):
    return ops.square(x).sum(1)


def tile(x):
    return ops.tile(x, (1, 2, 1, 3))


def transpose(x):
    return ops.transpose(x, (0, 2, 3, 1))


def unstack(x):
    return ops.unbind(x, 1)[2]


def variance(x):
    return ops.var(x, 1)


def zeros_for_each_image(x):
    return ops.concat((ops.zeros_like(x), x), 1)


def ones_for_each_image(x):
    return x + ops.ones((x.shape[0], 1, 8, 6))
