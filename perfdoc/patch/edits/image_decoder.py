"""Edit: another decoder of JPEGs: always left to the user, as the data set's own code has to change."""

from __future__ import annotations

from perfdoc.patch.edit import Edit
from perfdoc.patch.workspace import CannotEdit, Workspace

CODE = {
    "simplejpeg": "image = Image.fromarray(simplejpeg.decode_jpeg(open(path, 'rb').read()))",
    "turbojpeg": "image = Image.fromarray(TurboJPEG().decode(open(path, 'rb').read(), TJPF_RGB))",
    "cv2": "image = Image.fromarray(cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))",
    "torchvision": "image = torchvision.io.decode_image(torchvision.io.read_file(path), mode='RGB')",
}


class ImageDecoderEdit(Edit):
    """What the loading function would be."""

    slug = "image_decoder"

    def make(self, level: str, work: Workspace) -> str:
        """Never by itself."""
        raise CannotEdit("pictures are opened by the data set's own code, or by torchvision's: give it a loading function", "")

    def snippet(self, level: str, work: Workspace) -> str:
        """The function's line."""
        return CODE.get(level, work.change(self.slug, level)) + "  # ImageFolder(..., loader=...)"
