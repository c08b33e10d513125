#!/bin/bash -e
# Ends the build if the root holds what must be made by each Pi itself, or be given to it by its owner.

found=
complain() {
    if [ -n "$2" ]; then
        printf 'stage-raspy: %s: %s\n' "$1" "$2" >&2
        found=yes
    fi
}

# shadow(5): what begins with ! or * lets nobody in; nothing at all lets everybody in.
complain 'users with a password' "$(awk -F: '$2 !~ /^[!*]/ { printf "%s ", $1 }' /etc/shadow*)"
complain 'users that can log in' "$(awk -F: '$3 >= 1000 && $3 < 60000 { printf "%s ", $1 }' /etc/passwd)"
complain 'ssh keys' "$(find /etc/ssh /root /home -name 'ssh_host_*_key*' -o -name authorized_keys -o -name 'id_*')"
complain 'keys and secrets of RasPy' "$(find /etc/raspy/keys /etc/raspy/secrets -type f 2>/dev/null || true)"
complain 'state of RasPy' "$(find /var/lib/raspy -type f)"
complain 'no RasPy' "$([ -x /opt/raspy/current/bin/raspy ] || echo /opt/raspy/current is not there)"

[ -z "$found" ]
