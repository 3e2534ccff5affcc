"""What a fit may move, by the name tests call it."""

GROUPS = {
    "field": lambda avatar: list(avatar.sdf.parameters()),
    "offset": lambda avatar: list(avatar.deformation.offset.parameters()),
    "codes": lambda avatar: [avatar.codes],
    "poses": lambda avatar: [avatar.poses],
    "translation": lambda avatar: [avatar.trans],
    "focal length": lambda avatar: [avatar.camera.focal],
    "principal point": lambda avatar: [avatar.camera.principal],
    "camera rotation": lambda avatar: [avatar.camera.quat],
    "camera translation": lambda avatar: [avatar.camera.T],
}
