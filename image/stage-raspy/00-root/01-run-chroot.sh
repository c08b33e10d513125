#!/bin/bash -e
# pi-gen has made a first user. Here there is none but whom the owner makes, with Imager or cloud-init's files.

# Empty in a root that was made otherwise.
if [ -n "${FIRST_USER_NAME:-}" ] && id -u "${FIRST_USER_NAME}" >/dev/null 2>&1; then
    userdel --remove "${FIRST_USER_NAME}" 2>/dev/null
fi
# The name that raspi-config gives the file, if pi-gen was told PASSWORDLESS_SUDO.
rm -f /etc/sudoers.d/010_pi-nopasswd
# Copies that shadow's programs make, with the password of that user.
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
