#!/bin/bash -e
# All of RasPy: the role, which image/build has put beside this with the wheel.

files/raspy/image/common/apply-role "${ROOTFS_DIR}"
