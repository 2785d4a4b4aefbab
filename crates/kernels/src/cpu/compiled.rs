//! The loops of [`super::body`] and its like, compiled for an instruction set.

/// `OPERATIONS` of a name, for features that a `$token` proves, with `$vectors` where they are called by name.
///
/// `operations` hands them out for the token, so that it stands before every call.
macro_rules! compiled {
    ($name:literal, $token:ty, $features:literal, $vectors:ty) => {
        use crate::cpu::{Operations, ask_ahead, attend, body, floats, panels};

        /// The loops of this instruction set.
        pub(crate) fn operations(_: $token) -> &'static Operations {
            static OPERATIONS: Operations =
                Operations { name: $name, dot, attend, read, add_few, panel, round, round_twice, round_rest, softmax, swiglu, swiglu_back, gelu_tanh, gelu_tanh_back };
            &OPERATIONS
        }

        $crate::cpu::compiled::functions! { $features:
            dot(x: &[f32], y: &[f32]) -> f32 {
                body::dot::<true>(x, y)
            }
            attend(format: crate::KvFormat, rows: &mut attend::Rows, page: usize, keys: &[u8], values: &[u8]) -> () {
                attend::dispatch::<$vectors>(format, rows, page, keys, values);
            }
            read(bytes: &[u8]) -> u64 {
                body::read(bytes, |line| ask_ahead(line, 64))
            }
            add_few(out: &mut [f32], stride: usize, a: &[f32], b: crate::dense::View<f32>) -> () {
                body::add_few::<true>(out, stride, a, b);
            }
            panel(width: floats::Width, panel: &[u8], x: crate::dense::View<f32>, out: &mut floats::Products) -> () {
                floats::multiply::<$vectors>(width, panel, x, out);
            }
            round(x: &[f32], codes: panels::RowCodes) -> () {
                panels::round(x, codes);
            }
            round_twice(x: &[f32], codes: [panels::RowCodes; 2]) -> () {
                panels::round_twice(x, codes);
            }
            round_rest(x: &[f32], codes: panels::RowCodes, outliers: &mut [panels::Outlier]) -> usize {
                panels::round_rest(x, codes, outliers)
            }
            softmax(x: &mut [f32]) -> () {
                body::softmax::<true>(x);
            }
            swiglu(gate: &mut [f32], up: &[f32]) -> () {
                body::swiglu::<true>(gate, up);
            }
            swiglu_back(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) -> () {
                body::swiglu_back::<true>(gate, up, gradient);
            }
            gelu_tanh(x: &mut [f32]) -> () {
                body::gelu_tanh::<true>(x);
            }
            gelu_tanh_back(x: &mut [f32], gradient: &[f32]) -> () {
                body::gelu_tanh_back::<true>(x, gradient);
            }
        }
    };
}

/// Functions whose bodies are compiled for some features.
macro_rules! functions {
    ($features:literal: $($name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)*) => {
        $(fn $name($($argument: $type),*) -> $result {
            #[target_feature(enable = $features)]
            fn inner($($argument: $type),*) -> $result $body
            // SAFETY: `operations` asks for the token that proves the features.
            unsafe { inner($($argument),*) }
        })*
    };
}

pub(crate) use compiled;
pub(crate) use functions;
