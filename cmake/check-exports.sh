#!/bin/sh
# check-exports.sh SOURCE_DIR LIBRARY: the functions that include/kvhoist.h
# declares, those in cmake/kvhoist.map and those that LIBRARY exports are the same.
set -eu

# Comments go, then every "kvh_name(" in a declaration; inline ones are not exported.
header=$(gcc -fpreprocessed -dD -E -P "$1/include/kvhoist.h" 2>/dev/null | tr '\n' ' ' |
	sed 's/;/;\n/g' | grep -v 'static inline' | grep -v typedef |
	grep -oE '\bkvh_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u)
map=$(sed 's/#.*//' "$1/cmake/kvhoist.map" | grep -oE '\bkvh_[a-z0-9_]+;' | tr -d ';' | sort -u)
exported=$(nm -D --defined-only "$2" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u)

differ()
{
	[ "$2" = "$4" ] && return 0
	echo "only in $1: $(only "$2" "$4")"
	echo "only in $3: $(only "$4" "$2")"
	return 1
}

only()
{
	for name in $1; do
		case " $(echo "$2" | tr '\n' ' ') " in
		*" $name "*) ;;
		*) printf '%s ' "$name" ;;
		esac
	done
}

rc=0
differ kvhoist.h "$header" kvhoist.map "$map" || rc=1
differ kvhoist.map "$map" "$(basename "$2")" "$exported" || rc=1
exit $rc
