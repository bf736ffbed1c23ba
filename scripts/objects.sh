# Sourced by scripts that compile C files one by one and keep the objects. Not run directly.

# is_current OBJECT RECIPE: whether the object is newer than RECIPE, the script that makes it, and than every file named in
# OBJECT.d (gcc -MMD -MF OBJECT.d).
is_current() {
    local input inputs
    [[ $1 -nt $2 && -e $1.d ]] || return
    read -ra inputs < <(sed 's/\\$//' "$1.d" | tr '\n' ' ')
    for input in "${inputs[@]:1}"; do
        [[ -e $input && ! $input -nt $1 ]] || return
    done
}
