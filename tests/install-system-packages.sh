#!/bin/sh
# Installs the real parts that the tests run against. Does nothing when they are there.
set -eu
missing=""
for pair in Orthanc:orthanc storescu:dcmtk dciodvfy:dicom3tools chromium:chromium npm:npm xmllint:libxml2-utils docker-compose:docker-compose plastimatch:plastimatch; do
    PATH="$PATH:/usr/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$missing orthanc-dicomweb"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing:$missing. Install them by hand; this script knows Debian and Ubuntu only." >&2
    [ -n "${RADNODE_TEST_OPTIONAL:-}" ] && exit 0 || exit 1
fi
root=""
[ "$(id -u)" = 0 ] || root="sudo"
$root apt-get update -q
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $root apt-get install -y -q --no-install-recommends $missing
