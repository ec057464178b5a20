"""The names before a parenthesis that change nothing, for each dialect. Data only.

A name is here only if the database itself has it: with that name a call cannot mean a function of
the app that writes. PostgreSQL accepts a function of the app beside its own of the same name, with
other parameters. Its names that invite this (``log``, ``reverse``, ``repeat``, ``convert``) are
left out.
"""

from __future__ import annotations

# Keywords that no function can have as its name.
_KEYWORDS = frozenset(
    """
    all and any array as between case distinct else end except exists from group having in
    intersect interval join lateral like limit not null offset on or order select some then union
    using values when where with
    bigint char character decimal float int integer numeric smallint time timestamp varchar
    """.split()
)

_KEYWORDS_OF_MYSQL = frozenset(["binary", "match", "rlike", "xor"])

_STANDARD = frozenset(
    """
    abs avg cast ceil ceiling char_length character_length coalesce count cume_dist current_date
    current_time current_timestamp dense_rank exp extract first_value floor lag last_value lead
    ln localtime localtimestamp lower max min mod nth_value ntile nullif octet_length percent_rank
    position power rank row_number sqrt stddev_pop stddev_samp substring sum trim upper var_pop
    var_samp
    """.split()
)

# Not those that write, lock, wait, change a setting, run a query that they receive as a string or
# use a sequence.
_POSTGRESQL = frozenset(
    """
    greatest grouping ilike least normalize overlay overlaps row setof treat
    bit boolean date nchar real text timestamptz timetz

    acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt cos cosd cosh cot cotd
    degrees div factorial gcd lcm min_scale pi pow radians random round scale sign sin sind sinh
    tan tand tanh trim_scale trunc width_bucket

    ascii bit_count bit_length btrim chr concat concat_ws convert_from convert_to decode encode
    format gen_random_uuid get_bit get_byte initcap left length lpad ltrim md5 num_nonnulls
    num_nulls parse_ident quote_ident quote_literal quote_nullable regexp_count regexp_instr
    regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array
    regexp_split_to_table regexp_substr replace right rpad rtrim sha224 sha256 sha384 sha512
    split_part starts_with string_to_array string_to_table strpos substr to_ascii to_char to_hex
    to_number translate unistr

    age clock_timestamp date_bin date_part date_trunc isfinite justify_days justify_hours
    justify_interval make_date make_interval make_time make_timestamp make_timestamptz now
    statement_timestamp timeofday timezone to_date to_timestamp transaction_timestamp

    array_agg bit_and bit_or bit_xor bool_and bool_or corr covar_pop covar_samp every mode
    percentile_cont percentile_disc range_agg range_intersect_agg regr_avgx regr_avgy regr_count
    regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev string_agg variance

    array_append array_cat array_dims array_fill array_length array_lower array_ndims
    array_position array_positions array_prepend array_remove array_replace array_to_string
    array_upper cardinality enum_first enum_last enum_range generate_series generate_subscripts
    trim_array unnest

    datemultirange daterange int4multirange int4range int8multirange int8range isempty lower_inc
    lower_inf multirange nummultirange numrange range_merge tsmultirange tsrange tstzmultirange
    tstzrange upper_inc upper_inf

    array_to_json json_agg json_array_elements json_array_elements_text json_array_length
    json_build_array json_build_object json_each json_each_text json_extract_path
    json_extract_path_text json_object json_object_agg json_object_keys json_populate_record
    json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_typeof
    jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text
    jsonb_insert jsonb_object jsonb_object_agg jsonb_object_keys jsonb_path_exists
    jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query
    jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first
    jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset
    jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset
    jsonb_typeof row_to_json to_json to_jsonb

    array_to_tsvector get_current_ts_config json_to_tsvector jsonb_to_tsvector numnode
    phraseto_tsquery plainto_tsquery querytree setweight to_tsquery to_tsvector ts_delete ts_filter
    ts_headline ts_rank ts_rank_cd tsvector_to_array websearch_to_tsquery

    col_description current_database current_schema current_schemas current_setting format_type
    has_column_privilege has_database_privilege has_function_privilege has_schema_privilege
    has_sequence_privilege has_table_privilege obj_description pg_column_size pg_get_constraintdef
    pg_get_expr pg_get_functiondef pg_get_indexdef pg_get_serial_sequence pg_get_triggerdef
    pg_get_userbyid pg_get_viewdef pg_has_role pg_size_pretty pg_table_is_visible pg_typeof
    shobj_description to_regclass to_regtype version
    """.split()
)

# Only names that MySQL and MariaDB both have: on a database without a function of this name, a
# stored function can have the name. Not those that depend on earlier statements of the session.
_MYSQL = frozenset(
    """
    greatest least

    acos asin atan atan2 bit_count conv cos cot crc32 degrees format log log10 log2 pi pow radians
    rand round sign sin tan truncate

    ascii bin bit_length charset coercibility collation concat concat_ws convert elt export_set
    field find_in_set from_base64 hex instr lcase left length locate lpad ltrim make_set
    mid oct ord quote regexp_instr regexp_replace regexp_substr repeat replace reverse right
    rpad rtrim soundex space strcmp substr substring_index to_base64 ucase unhex weight_string

    adddate addtime convert_tz curdate curtime date date_add date_format date_sub datediff day
    dayname dayofmonth dayofweek dayofyear from_days from_unixtime hour last_day makedate maketime
    microsecond minute month monthname now period_add period_diff quarter sec_to_time second
    str_to_date subdate subtime sysdate time_format time_to_sec timediff timestampadd timestampdiff
    to_days to_seconds unix_timestamp utc_date utc_time utc_timestamp week weekday weekofyear year
    yearweek

    bit_and bit_or bit_xor group_concat json_arrayagg json_objectagg std stddev variance

    json_array json_array_append json_array_insert json_contains json_contains_path json_depth
    json_extract json_insert json_keys json_length json_merge_patch json_merge_preserve json_object
    json_overlaps json_quote json_remove json_replace json_search json_set json_type json_unquote
    json_valid json_value

    if ifnull isnull

    database inet6_aton inet6_ntoa inet_aton inet_ntoa md5 schema sha sha1 sha2 user uuid version

    st_area st_asgeojson st_astext st_buffer st_contains st_distance st_distance_sphere
    st_geomfromtext st_intersects st_length st_srid st_within st_x st_y
    """.split()
)

# No function of SQLite writes.
_SQLITE = frozenset(
    """
    glob match regexp
    date datetime julianday strftime timediff unixepoch

    acos acosh asin asinh atan atan2 atanh cos cosh degrees log log10 log2 pi pow radians random
    randomblob round sign sin sinh tan tanh trunc zeroblob

    concat concat_ws format hex iif instr length likelihood likely ltrim printf quote replace rtrim
    substr typeof unhex unicode unlikely

    group_concat ifnull median percentile string_agg total

    json json_array json_array_insert json_array_length json_each json_error_position json_extract
    json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_tree json_type json_valid jsonb jsonb_array jsonb_each
    jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set jsonb_tree

    bm25 highlight snippet sqlite_version
    """.split()
)


def _apart(names: frozenset[str]) -> frozenset[str]:
    """Return *names*, also as they are read with white space before the parenthesis."""
    return names | {f"{name} " for name in names}


OF_OTHER_DATABASES = _apart(_KEYWORDS | _STANDARD)
HARMLESS = {
    "postgresql": _apart(_KEYWORDS | _STANDARD | _POSTGRESQL),
    # MariaDB knows neither word, and there 'max (1)', with a space, can be a stored function.
    "mysql": _apart((_KEYWORDS - {"array", "lateral"}) | _KEYWORDS_OF_MYSQL) | _STANDARD | _MYSQL,
    "sqlite": _apart(_KEYWORDS | _STANDARD | _SQLITE),
}
"""By dialect; a name that ends with a space has white space before its parenthesis."""
