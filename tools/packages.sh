# What ./up and ./check have in common: Debian packages, and telling the steps apart. To be sourced.

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

build_packages=(gcc libc6-dev meson ninja-build pkgconf python3 python3-venv ca-certificates curl
                libcjson-dev libmicrohttpd-dev libpcre2-dev libsodium-dev libutf8proc-dev
                liblmdb-dev liburing-dev libxxhash-dev glslang-tools libvulkan-dev)
# For the tests of the Vulkan executor where there is no GPU: a software device, and judges.
vulkan_test_packages=(mesa-vulkan-drivers spirv-tools vulkan-validationlayers)

is_installed() { dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

as_root() {
    if (( EUID == 0 )); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root or sudo for: $*"
    fi
}

# install_packages NAME...: installs those that are missing; asks nobody anything.
install_packages() {
    local name missing=()
    for name in "$@"; do
        is_installed "$name" || missing+=("$name")
    done
    (( ${#missing[@]} )) || return 0
    command -v apt-get >/dev/null || die "no apt-get here; please install: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -q </dev/null >/dev/null || die "apt-get update failed"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        "${missing[@]}" </dev/null >/dev/null || die "apt-get could not install: ${missing[*]}"
}

# A newer GLSL compiler and software Vulkan device than the system's, once fetch_vulkan_tools has
# brought them; vulkan_options are of a build that may use them, and name the system's otherwise.
vulkan_tools=${XDG_CACHE_HOME:-$HOME/.cache}/godwit/vulkan-tools
vulkan_options=(-Dglslang=glslangValidator -Dvulkan_include=)

fetch_vulkan_tools() {
    tools/vulkan_toolchain "$vulkan_tools" || return
    vulkan_options=("-Dglslang=$vulkan_tools/bin/glslangValidator"
                    "-Dvulkan_include=$vulkan_tools/include")
}

# Whether the system's GLSL compiler knows what the kernels for GPUs need.
has_gpu_compiler() {
    local feature
    for feature in int_dot matrix; do
        glslangValidator --quiet -V --target-env vulkan1.3 -o /dev/null \
            "shaders/feature/$feature.comp" >/dev/null || return
    done
}

# setup_build FOLDER OPTION...: makes a build folder, or gives an old one these options.
setup_build() {
    local folder=$1 log
    shift
    if [[ -f $folder/build.ninja ]]; then
        meson configure "$folder" "$@"
    elif ! log=$(meson setup "$folder" "$@" 2>&1); then
        printf '%s\n' "$log" >&2
        die "meson setup $folder failed"
    fi
}
