# Sourced by scripts that compile C files one by one and keep the objects; not run by itself.

# is_current OBJECT RECIPE: whether the object is newer than the script that says how it is made, and than every file that
# OBJECT.d names (gcc -MMD -MF OBJECT.d).
is_current() {
    local input inputs
    [[ $1 -nt $2 && -e $1.d ]] || return
    read -ra inputs < <(sed 's/\\$//' "$1.d" | tr '\n' ' ')
    for input in "${inputs[@]:1}"; do
        [[ -e $input && ! $input -nt $1 ]] || return
    done
}
