//! The C ABI: each call asks the plan, and is forwarded or not.

#![expect(non_snake_case, reason = "the names are the standard's")]

use std::{ffi::c_void, ptr, sync::OnceLock};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_BYTE, CK_FLAGS, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR, CK_INFO, CK_MECHANISM,
    CK_MECHANISM_INFO, CK_MECHANISM_TYPE, CK_NOTIFY, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_SESSION_INFO, CK_SLOT_ID, CK_SLOT_INFO, CK_TOKEN_INFO, CK_ULONG, CK_USER_TYPE, CK_UTF8CHAR,
    CKR_ARGUMENTS_BAD, CKR_DEVICE_MEMORY, CKR_FUNCTION_NOT_SUPPORTED, CKR_GENERAL_ERROR, CKR_OK, Pkcs11,
};

use crate::{
    plan::MODULE,
    shim::{Order, Shim},
};

/// Where SoftHSM is on Debian.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// How long a key is that was wrapped under an RSA key of 2048 bits.
const RSA_LENGTH: CK_ULONG = 256;

struct Loaded {
    shim: Shim,
    /// The real module's functions.
    real: CK_FUNCTION_LIST,
    /// The functions that are handed out.
    ours: CK_FUNCTION_LIST,
    /// Keeps the real module loaded.
    _library: Pkcs11,
}

static LOADED: OnceLock<Option<Loaded>> = OnceLock::new();

fn loaded() -> Option<&'static Loaded> {
    LOADED.get_or_init(load).as_ref()
}

fn load() -> Option<Loaded> {
    let path = std::env::var(MODULE).unwrap_or_else(|_| SOFTHSM.to_owned());
    // SAFETY: the test names a PKCS#11 module, whose initialisers are meant to be run by loading it.
    let library = unsafe { Pkcs11::new(path) }.ok()?;
    let mut list: CK_FUNCTION_LIST_PTR = ptr::null_mut();
    library.C_GetFunctionList.as_ref().ok()?;
    // SAFETY: the symbol is there, and `list` is a place for a pointer.
    let answer = unsafe { library.C_GetFunctionList(&raw mut list) };
    if answer != CKR_OK || list.is_null() {
        return None;
    }
    // SAFETY: the module answered that the pointer is to its function list, which lives as long as it does.
    let real = unsafe { *list };
    Some(Loaded { shim: Shim::new(), real, ours: ours(&real), _library: library })
}

/// Hands out the functions of this module.
///
/// # Safety
///
/// `list` must be null or a place for a pointer, as the standard says.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn C_GetFunctionList(list: *mut CK_FUNCTION_LIST_PTR) -> CK_RV {
    let Some(loaded) = loaded() else { return CKR_GENERAL_ERROR };
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, so a place for a pointer by the caller's promise.
    unsafe { *list = (&raw const loaded.ours).cast_mut() };
    CKR_OK
}

/// Does what the plan says of one call.
fn obey(call: &str, session: Option<CK_SESSION_HANDLE>, forward: impl FnOnce(&Loaded) -> CK_RV) -> CK_RV {
    obey_for(call, session, None, forward)
}

/// The same of a call that is about a slot.
fn obey_for(
    call: &str,
    session: Option<CK_SESSION_HANDLE>,
    slot: Option<CK_SLOT_ID>,
    forward: impl FnOnce(&Loaded) -> CK_RV,
) -> CK_RV {
    let Some(loaded) = loaded() else { return CKR_GENERAL_ERROR };
    let token = loaded.shim.slot(session, slot).and_then(|slot| label(loaded, slot));
    match loaded.shim.order(call, session, token.as_deref()) {
        Order::Before(code) => {
            if let (Some(dead), Some(close)) =
                (session.and_then(|session| loaded.shim.bury(session)), loaded.real.C_CloseSession)
            {
                // SAFETY: the handle is the real module's own.
                unsafe { close(dead) };
            }
            code
        }
        Order::Forward => forward(loaded),
        Order::After(code) => {
            forward(loaded);
            code
        }
    }
}

/// The label of the token in a slot, without the spaces that fill it up.
fn label(loaded: &Loaded, slot: CK_SLOT_ID) -> Option<String> {
    let mut info = CK_TOKEN_INFO::default();
    // SAFETY: `info` is a place for what the call tells.
    let answer = unsafe { loaded.real.C_GetTokenInfo?(slot, &raw mut info) };
    let text = std::str::from_utf8(&info.label).ok()?;
    (answer == CKR_OK).then(|| text.trim_end().to_owned())
}

macro_rules! forwarded {
    ($(@session $name:ident(session: CK_SESSION_HANDLE $(, $arg:ident: $type:ty)*);)*) => {
        $(unsafe extern "C" fn $name(session: CK_SESSION_HANDLE $(, $arg: $type)*) -> CK_RV {
            obey(stringify!($name), Some(session), |loaded| match loaded.real.$name {
                // SAFETY: the arguments are passed on as they came, to the function they are meant for.
                Some(call) => unsafe { call(session $(, $arg)*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            })
        })*
    };
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        $(unsafe extern "C" fn $name($($arg: $type),*) -> CK_RV {
            obey(stringify!($name), None, |loaded| match loaded.real.$name {
                // SAFETY: the arguments are passed on as they came, to the function they are meant for.
                Some(call) => unsafe { call($($arg),*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            })
        })*
    };
}

forwarded! {
    C_Initialize(a: *mut c_void);
    C_GetInfo(a: *mut CK_INFO);
    C_GetSlotList(a: CK_BBOOL, b: *mut CK_SLOT_ID, c: *mut CK_ULONG);
    C_GetSlotInfo(a: CK_SLOT_ID, b: *mut CK_SLOT_INFO);
    C_GetMechanismList(a: CK_SLOT_ID, b: *mut CK_MECHANISM_TYPE, c: *mut CK_ULONG);
    C_GetMechanismInfo(a: CK_SLOT_ID, b: CK_MECHANISM_TYPE, c: *mut CK_MECHANISM_INFO);
    C_InitToken(a: CK_SLOT_ID, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR);
}

forwarded! {
    @session C_InitPIN(session: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG);
    @session C_SetPIN(session: CK_SESSION_HANDLE, b: *mut CK_UTF8CHAR, c: CK_ULONG, d: *mut CK_UTF8CHAR, e: CK_ULONG);
    @session C_GetSessionInfo(session: CK_SESSION_HANDLE, b: *mut CK_SESSION_INFO);
    @session C_Logout(session: CK_SESSION_HANDLE);
    @session C_CreateObject(session: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG, d: *mut CK_OBJECT_HANDLE);
    @session C_CopyObject(session: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE);
    @session C_DestroyObject(session: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE);
    @session C_GetObjectSize(session: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ULONG);
    @session C_GetAttributeValue(session: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG);
    @session C_SetAttributeValue(session: CK_SESSION_HANDLE, b: CK_OBJECT_HANDLE, c: *mut CK_ATTRIBUTE, d: CK_ULONG);
    @session C_FindObjectsInit(session: CK_SESSION_HANDLE, b: *mut CK_ATTRIBUTE, c: CK_ULONG);
    @session C_FindObjects(session: CK_SESSION_HANDLE, b: *mut CK_OBJECT_HANDLE, c: CK_ULONG, d: *mut CK_ULONG);
    @session C_FindObjectsFinal(session: CK_SESSION_HANDLE);
    @session C_SignInit(session: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE);
    @session C_VerifyInit(session: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: CK_OBJECT_HANDLE);
    @session C_Verify(session: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG, d: *mut CK_BYTE, e: CK_ULONG);
    @session C_GenerateKey(session: CK_SESSION_HANDLE, b: *mut CK_MECHANISM, c: *mut CK_ATTRIBUTE, d: CK_ULONG, e: *mut CK_OBJECT_HANDLE);
    @session C_SeedRandom(session: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG);
    @session C_GenerateRandom(session: CK_SESSION_HANDLE, b: *mut CK_BYTE, c: CK_ULONG);
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> CK_RV {
    obey_for("C_GetTokenInfo", None, Some(slot), |loaded| match loaded.real.C_GetTokenInfo {
        // SAFETY: the arguments are passed on as they came.
        Some(call) => unsafe { call(slot, info) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    })
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    obey("C_Finalize", None, |loaded| {
        let Some(call) = loaded.real.C_Finalize else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the argument is passed on as it came.
        let answer = unsafe { call(reserved) };
        if answer == CKR_OK {
            loaded.shim.closed_all(None);
        }
        answer
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    obey_for("C_OpenSession", None, Some(slot), |loaded| {
        if let Err(code) = loaded.shim.demand_room_for_session() {
            return code;
        }
        let Some(call) = loaded.real.C_OpenSession else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the arguments are passed on as they came.
        let answer = unsafe { call(slot, flags, application, notify, session) };
        if answer == CKR_OK {
            // SAFETY: the real module has just written the handle there.
            loaded.shim.opened(slot, unsafe { *session });
        }
        answer
    })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    obey("C_CloseSession", Some(session), |loaded| {
        let Some(call) = loaded.real.C_CloseSession else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the argument is passed on as it came.
        let answer = unsafe { call(session) };
        if answer == CKR_OK {
            loaded.shim.closed(session);
        }
        answer
    })
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    obey("C_CloseAllSessions", None, |loaded| {
        let Some(call) = loaded.real.C_CloseAllSessions else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the argument is passed on as it came.
        let answer = unsafe { call(slot) };
        if answer == CKR_OK {
            loaded.shim.closed_all(Some(slot));
        }
        answer
    })
}

unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    let answer = obey("C_Login", Some(session), |loaded| match loaded.real.C_Login {
        // SAFETY: the arguments are passed on as they came.
        Some(call) => unsafe { call(session, user, pin, length) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    });
    if let Some(loaded) = loaded() {
        loaded.shim.note_login(answer);
    }
    answer
}

unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    data_length: CK_ULONG,
    signature: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    let forward = |loaded: &Loaded| match loaded.real.C_Sign {
        // SAFETY: the arguments are passed on as they came.
        Some(call) => unsafe { call(session, data, data_length, signature, length) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    };
    // A question for the length signs nothing: it cannot fail after its effect, nor take the time of one.
    match loaded() {
        Some(loaded) if signature.is_null() => forward(loaded),
        _ => obey("C_Sign", Some(session), forward),
    }
}

unsafe extern "C" fn C_WrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrap_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: null, or a mechanism by the caller's promise.
    let by = unsafe { mechanism.as_ref() }.map(|mechanism| mechanism.mechanism);
    // SAFETY: null, or a place for the length by the caller's promise.
    let place = unsafe { length.as_mut() };
    if let (Some(by), Some(place), Some(loaded)) = (by, place, loaded())
        && loaded.shim.wraps_by(by)
    {
        // The bytes stay as the caller had them: hsmd does not read what a module yields.
        *place = RSA_LENGTH;
        return CKR_OK;
    }
    let forward = |loaded: &Loaded| match loaded.real.C_WrapKey {
        // SAFETY: the arguments are passed on as they came.
        Some(call) => unsafe { call(session, mechanism, wrap_key, key, wrapped, length) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    };
    // A question for the length wraps nothing.
    match loaded() {
        Some(loaded) if wrapped.is_null() => forward(loaded),
        _ => obey("C_WrapKey", Some(session), forward),
    }
}

unsafe extern "C" fn C_UnwrapKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrap_key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    obey("C_UnwrapKey", Some(session), |loaded| match loaded.real.C_UnwrapKey {
        // SAFETY: the arguments are passed on as they came.
        Some(call) => unsafe { call(session, mechanism, wrap_key, wrapped, length, template, count, key) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    })
}

unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    obey("C_GenerateKeyPair", Some(session), |loaded| {
        let full = |max| objects(loaded, session).is_none_or(|count| count + 2 > max);
        if loaded.shim.objects_max().is_some_and(full) {
            return CKR_DEVICE_MEMORY;
        }
        let Some(call) = loaded.real.C_GenerateKeyPair else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the arguments are passed on as they came.
        unsafe {
            call(session, mechanism, public, public_count, private, private_count, public_key, private_key)
        }
    })
}

/// How many objects the token holds; none if it does not say.
fn objects(loaded: &Loaded, session: CK_SESSION_HANDLE) -> Option<u64> {
    let (begin, find, end) =
        (loaded.real.C_FindObjectsInit?, loaded.real.C_FindObjects?, loaded.real.C_FindObjectsFinal?);
    // SAFETY: an empty template matches everything.
    if unsafe { begin(session, ptr::null_mut(), 0) } != CKR_OK {
        return None;
    }
    let (mut count, mut found) = (0, 1);
    while found != 0 {
        let mut object = 0;
        // SAFETY: there is room for one handle and for the number of handles.
        if unsafe { find(session, &raw mut object, 1, &raw mut found) } != CKR_OK {
            break;
        }
        count += found;
    }
    // SAFETY: the search was begun above.
    unsafe { end(session) };
    Some(count)
}

fn ours(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
    // What hsmd would never call is the real module's own.
    CK_FUNCTION_LIST {
        C_GetFunctionList: Some(C_GetFunctionList),
        C_Initialize: Some(C_Initialize),
        C_Finalize: Some(C_Finalize),
        C_GetInfo: Some(C_GetInfo),
        C_GetSlotList: Some(C_GetSlotList),
        C_GetSlotInfo: Some(C_GetSlotInfo),
        C_GetTokenInfo: Some(C_GetTokenInfo),
        C_GetMechanismList: Some(C_GetMechanismList),
        C_GetMechanismInfo: Some(C_GetMechanismInfo),
        C_InitToken: Some(C_InitToken),
        C_InitPIN: Some(C_InitPIN),
        C_SetPIN: Some(C_SetPIN),
        C_OpenSession: Some(C_OpenSession),
        C_CloseSession: Some(C_CloseSession),
        C_CloseAllSessions: Some(C_CloseAllSessions),
        C_GetSessionInfo: Some(C_GetSessionInfo),
        C_Login: Some(C_Login),
        C_Logout: Some(C_Logout),
        C_CreateObject: Some(C_CreateObject),
        C_CopyObject: Some(C_CopyObject),
        C_DestroyObject: Some(C_DestroyObject),
        C_GetObjectSize: Some(C_GetObjectSize),
        C_GetAttributeValue: Some(C_GetAttributeValue),
        C_SetAttributeValue: Some(C_SetAttributeValue),
        C_FindObjectsInit: Some(C_FindObjectsInit),
        C_FindObjects: Some(C_FindObjects),
        C_FindObjectsFinal: Some(C_FindObjectsFinal),
        C_SignInit: Some(C_SignInit),
        C_Sign: Some(C_Sign),
        C_VerifyInit: Some(C_VerifyInit),
        C_Verify: Some(C_Verify),
        C_GenerateKey: Some(C_GenerateKey),
        C_GenerateKeyPair: Some(C_GenerateKeyPair),
        C_WrapKey: Some(C_WrapKey),
        C_UnwrapKey: Some(C_UnwrapKey),
        C_SeedRandom: Some(C_SeedRandom),
        C_GenerateRandom: Some(C_GenerateRandom),
        ..*real
    }
}
