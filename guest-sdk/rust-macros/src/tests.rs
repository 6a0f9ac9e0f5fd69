//! What an author reads when an attribute is wrong.

use proc_macro2::TokenStream;
use syn::parse_quote;

fn input_error(item: syn::DeriveInput) -> String {
    crate::input::expand(&item).unwrap_err().to_string()
}

fn predictor_error(options: TokenStream, item: TokenStream) -> String {
    crate::predictor::expand(options, item).unwrap_err().to_string()
}

#[test]
fn an_unknown_option_is_answered_with_the_known_ones() {
    let error = input_error(parse_quote!(
        struct A {
            #[input(min = 1)]
            a: u8,
        }
    ));
    assert_eq!(error, "unknown option; there are default, ge, le, min_length, max_length, regex and choices");
    let error = predictor_error(parse_quote!(model = "a"), parse_quote!(impl Predictor for A {}));
    assert_eq!(error, "unknown option; there are models, name, description, timeout_ms and memory_bytes");
}

#[test]
fn a_default_outside_its_own_bounds_is_refused() {
    let cases: [(syn::DeriveInput, &str); 6] = [
        (
            parse_quote!(
                struct A {
                    #[input(default = 5, ge = 6)]
                    a: u8,
                }
            ),
            "default 5 is below ge = 6",
        ),
        (
            parse_quote!(
                struct A {
                    #[input(default = 2.5, le = 2)]
                    a: f32,
                }
            ),
            "default 2.5 is above le = 2",
        ),
        (
            parse_quote!(
                struct A {
                    #[input(default = "", min_length = 1)]
                    a: String,
                }
            ),
            "default has 0 characters, min_length is 1",
        ),
        (
            parse_quote!(
                struct A {
                    #[input(default = "häse", max_length = 3)]
                    a: String,
                }
            ),
            "default has 4 characters, max_length is 3",
        ),
        (
            parse_quote!(
                struct A {
                    #[input(default = "c", choices = ["a", "b"])]
                    a: String,
                }
            ),
            "default \"c\" is none of the choices",
        ),
        (
            parse_quote!(
                struct A {
                    #[input(ge = 2, le = -1)]
                    a: i8,
                }
            ),
            "ge = 2 is above le = -1",
        ),
    ];
    for (item, message) in cases {
        assert_eq!(input_error(item), message);
    }
}

#[test]
fn options_that_could_mean_two_things_are_refused() {
    assert_eq!(
        input_error(parse_quote!(
            struct A {
                #[input(ge = 1, ge = 2)]
                a: u8,
            }
        )),
        "given twice"
    );
    assert_eq!(
        input_error(parse_quote!(
            struct A {
                #[input(choices = [])]
                a: u8,
            }
        )),
        "no choices: nothing could be given"
    );
}

#[test]
fn types_without_a_schema_are_refused() {
    assert_eq!(
        input_error(parse_quote!(
            struct A(u8);
        )),
        "Input needs named fields"
    );
    assert_eq!(
        input_error(parse_quote!(
            struct A<T> {
                a: T,
            }
        )),
        "Input can't be generic"
    );
    assert_eq!(
        input_error(parse_quote!(
            enum A {
                B(u8),
            }
        )),
        "a choice can't hold fields; use a struct with an enum in it"
    );
}

#[test]
fn the_attribute_says_where_it_stands() {
    let expected = "#[predictor] stands on `impl Predictor for YourType`";
    assert_eq!(
        predictor_error(
            parse_quote!(),
            parse_quote!(
                struct A;
            )
        ),
        expected
    );
    assert_eq!(predictor_error(parse_quote!(), parse_quote!(impl A {})), expected);
}
