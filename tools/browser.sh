#!/bin/sh
# Chromium and its driver, for the test that opens a report: Debian's packages (133 MB to fetch, 440 MB installed), if they are not there.
#
#   tools/browser.sh            installs what is missing; needs Debian or a relative of it, and root
#   tools/browser.sh --check    installs nothing
#
# Exit code 0 if both are there at the end. Otherwise the last line on standard error says why not.
set -eu

missing() {
    for program in chromium chromedriver; do
        command -v "$program" >/dev/null || echo "$program"
    done
}

refuse() {
    echo "$(missing | tr '\n' ' ')not found: $1" >&2
    exit 1
}

[ -n "$(missing)" ] || exit 0
[ "${1:-}" != --check ] || refuse "tools/browser.sh installs Debian's packages"
command -v apt-get >/dev/null || refuse "no apt-get here; install Chromium and ChromeDriver as this system does"
[ "$(id -u)" = 0 ] || refuse "installing needs root: sudo tools/browser.sh"

export DEBIAN_FRONTEND=noninteractive
apt-get update -q >&2 || refuse "apt-get update failed"
apt-get install -q -y --no-install-recommends chromium chromium-driver >&2 || refuse "apt-get install failed"
[ -z "$(missing)" ] || refuse "the packages chromium and chromium-driver did not bring them"
